//! Push: pushers, what is pushed to whom, and its delivery to push gateways (CS "Push Notifications", Push
//! Gateway API).
//!
//! Owns two rows for each pusher: itself, changed in its user's turn ([`Users::in_turn`](hearth_users::Users::in_turn)), and
//! how far it got, changed in a turn of its own, since the user's is what clients wait for. There is no row for a notification:
//! what is to be pushed is read from the store's log, which a persisted cursor holds.
//!
//! - The **router** reads the log behind every room's writer, finds the local users with a pusher whom an entry
//!   concerns, and has `hearth_sync` judge the event by their rules. Nobody else costs anything.
//! - Each pusher with something to send has a **lane**: a short queue, of which one notification is under way. When
//!   the gateway has taken it, the pusher's progress is written before the next one is sent: after a crash only the
//!   one that was in flight is sent again. The lanes take turns, a notification each.
//! - The log is held from the oldest notification in any queue on, up to a bound. A pusher whose gateway fails, or
//!   whose queue is full, lets go of it: its row says that it is **behind**, and when it is due again it catches up
//!   from the timelines of its user's rooms, with a bound, and without what was read meanwhile. What is routed while
//!   it does so waits behind what it missed.
//! - All of it runs on a runtime of its own, which the binary gives less of the processors than requests get, and at a **pace**
//!   that goes by how late these are: [`Foreground`], which the binary plugs in.
//! - A **badge** is the number of unread notifications in all rooms of the user, by the counts that `/sync` shows.
//!
//! The crate speaks to gateways through [`Gateway`], which the binary plugs in.

mod audience;
mod badge;
mod book;
mod config;
mod deliver;
mod error;
mod gateway;
mod history;
mod hold;
mod keeper;
mod lane;
mod lanes;
mod names;
mod notifications;
mod pace;
mod payload;
mod pushers;
mod registry;
mod router;
mod service;
mod throttle;

pub use self::{
    config::PushConfig,
    error::PushError,
    gateway::{Gateway, GatewayAnswer, GatewayError},
    lanes::MAX_PER_GATEWAY,
    notifications::{Notifications, NotificationsRequest, Notified},
    pushers::{KIND_HTTP, NOTIFY_PATH, NewPusher},
    service::{Push, PushParts},
    throttle::Foreground,
};

/// The names of this crate's keyspaces, for the store's opening.
pub const KEYSPACES: &[&str] = &[pushers::PUSHERS.name(), pushers::PROGRESS.name()];
