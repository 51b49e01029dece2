//! What other servers may ask of a room that this server is in. Nothing here changes a room but what
//! goes through its writer.
//!
//! `servers` tells who is in a room and `acl` who may be · `visibility` judges what a server may see ·
//! `answers`, `history`, `state` and `time` answer about events, `hierarchy` about spaces · `template` and `membership` let users
//! of other servers in and out · `countersign` adds this server's signature to membership events of
//! others · `third_party` completes invitations to third-party identifiers.

mod acl;
mod answers;
mod cache;
mod countersign;
mod hierarchy;
mod history;
mod membership;
mod servers;
mod state;
mod template;
mod third_party;
mod time;
mod visibility;

pub(crate) use self::cache::Served;
pub use self::{
    countersign::MembershipShape,
    hierarchy::ServerHierarchy,
    history::{MAX_BACKFILL, MAX_MISSING},
    membership::JoinAnswer,
    state::{StateAnswer, StateIds},
    template::{MembershipTemplate, TemplateKind},
};
