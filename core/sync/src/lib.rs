//! What changed for whom: `/sync`, the same over a WebSocket, sliding sync, unread counts, delivery status.
//!
//! Owns nothing in the store. Holds in memory: one session for each user with a connected client
//! (`hub`), which knows the user's rooms and listens for changes of them; what each device has been
//! told about lazily loaded members, and on its sliding sync connections; counts of users with push rules
//! of their own. All of it is
//! bounded and can be lost at any time.
//!
//! A response is made from two positions, what the client knows and what is published now: every part
//! reads what changed between them, so that the same token always leads to the same events, on
//! whichever transport it is shown. Who waits registers first, then reads, then waits. What a device itself
//! has sent waits for the answer to that (`echoes`).

mod body;
mod config;
mod counts;
mod delivery;
mod device_lists;
mod directory;
mod echoes;
mod encryption;
mod ephemeral;
mod error;
mod filter;
mod format;
mod hub;
mod judge;
mod members;
mod pass;
mod presence;
mod rooms;
mod service;
mod sliding;
mod state;
mod stream;
mod summary;
mod timeline;
mod to_device;
mod token;

pub use self::{
    config::SyncConfig,
    delivery::DELIVERED_RECEIPT,
    device_lists::DeviceLists,
    directory::RemoteMatch,
    echoes::Unanswered,
    error::SyncError,
    judge::{FlatEvent, Judge, is_read},
    service::{SyncRequest, SyncResponse, SyncService},
    sliding::{SlidingBody, SlidingForm, SlidingRequest, SlidingResponse},
    stream::SyncStream,
    token::SyncToken,
};
