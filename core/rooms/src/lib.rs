//! The event graph of every room that this server takes part in.
//!
//! Owns: rooms' events and their edges, state at each event, the timeline, memberships, aliases, the
//! public directory, relations, and the ledger of what notifies whom. One writer task for each active
//! room is the only one to change that room's rows ([`writer`]); everything else here reads.
//!
//! Refuses to know: HTTP, users' accounts and settings, sync tokens. Other servers are reached through
//! [`RemoteRooms`], which the federation crate implements.
//!
//! Map: [`schema`] names every row · [`writer`] changes them · [`state`] is the persistent state tree ·
//! [`resolve`] merges forks · [`read`] answers clients' questions, `serve` those of other servers ·
//! `receive` and `admit` take in what other servers send · [`mod@format`] shapes events for clients.

mod admit;
mod aliases;
mod cache;
mod config;
mod create;
mod directory;
mod elsewhere;
mod error;
pub mod format;
mod head;
mod membership;
mod place;
mod policy;
pub mod read;
mod receive;
mod redaction;
mod remote;
pub mod resolve;
mod rooms;
pub mod schema;
mod send;
mod serve;
pub mod state;
mod stated;
mod transactions;
mod unread;
mod upgrade;
pub mod writer;

pub use self::{
    admit::{OutOfBand, PartialRoom, RemoteJoin},
    config::{RoomsConfig, SUPPORTED_VERSIONS},
    create::{CreateRoomOptions, InitialState, Invitee, Preset, json_object},
    directory::{DirectoryPage, DirectoryQuery, PublicRoom},
    elsewhere::MembershipDraft,
    error::{ReadError, RoomError},
    membership::MemberProfile,
    receive::{CheckedPdu, MAX_HISTORY, Teller, Verdict},
    remote::{RemoteAlias, RemoteHierarchy, RemoteInvite, RemoteMembership, RemoteRooms},
    rooms::{RoomNodes, Rooms},
    schema::{KEYSPACES, StoredEvent},
    serve::{
        JoinAnswer, MAX_BACKFILL, MAX_MISSING, MembershipShape, MembershipTemplate,
        ServerHierarchy, StateAnswer, StateIds, TemplateKind,
    },
    transactions::DELAY_ID_PREFIX,
    writer::Draft,
};
