//! Everything that a homeserver owes to clients that encrypt with Olm and Megolm: it carries and never
//! decrypts.
//!
//! Owns: device keys, one-time and fallback keys, cross-signing keys and signatures, device lists (of
//! this server's users, and what is known of others'), messages to devices with their queues, key
//! backups, dehydrated devices. Rows of a user of this server are changed in that user's
//! [turn](hearth_users::Users::in_turn), the one that changes of their devices use too; queues are only
//! added to, at positions that the store counts, and need no turn.
//!
//! Refuses to know: HTTP, sync tokens' text, how other servers are reached ([`RemoteKeys`], which the
//! federation crate implements). Keys and signatures are verified with vodozemac before they are stored.
//!
//! Map: [`schema`](self) names every row · `device_keys`, `one_time_keys`, `claims` · `cross_signing`,
//! `signatures` · `query` answers who has which keys · `device_lists` says whose changed, `remote_lists`
//! keeps those of other servers' users · `to_device` is the queue of each device, `outgoing` that of each
//! server · `backup` · `dehydrated` · `removal` forgets devices that go.

mod backup;
mod claims;
mod config;
mod cross_signing;
mod dehydrated;
mod device_keys;
mod device_lists;
mod e2ee;
mod error;
mod log;
mod one_time_keys;
mod outgoing;
mod query;
mod remote;
mod remote_lists;
mod removal;
mod schema;
mod signatures;
mod signed;
#[cfg(test)]
mod signer;
#[cfg(test)]
mod testing;
mod to_device;
mod upload;
mod verify;

pub use self::{
    backup::{BackedUpKey, BackupKeys, BackupPage, BackupState, BackupVersion},
    claims::{ClaimedKeys, Claims, HandedOut},
    config::E2eeConfig,
    cross_signing::{CrossSigningOutcome, CrossSigningUpload},
    dehydrated::{DehydratedDevice, DehydratedEvents, DehydratedUpload},
    device_lists::user_topic,
    e2ee::{E2ee, E2eeParts},
    error::E2eeError,
    log::{DeviceListLog, LogKind},
    one_time_keys::{KeyCounts, KeyUpload},
    outgoing::{DeviceForServers, OutgoingMessage},
    query::{DeviceListForServer, KeysWanted, QueriedKeys, ServerKeys},
    remote::{RemoteKeys, RemoteKeysError},
    schema::KEYSPACES,
    signatures::SignatureFailures,
    to_device::{ToDeviceMessage, ToDevicePage},
};
