//! Ordered keyspaces, atomic durable commits, and the wake-ups that follow them.
//!
//! This crate owns everything that touches the disk. It knows identifiers as strings that sort and
//! nothing else of Matrix. Two levels:
//!
//! - [`Engine`]: synchronous, bytes, behind `dyn`. Applies batches all or nothing and in order, hands
//!   out views to read from. `fjall` (default), `sled` and `memory` stand behind one contract suite.
//! - [`Store`]: asynchronous and typed. Reads ([`Store::get`], [`Store::page`], [`Store::bulk`]) and
//!   the one way to write: [`Store::submit`] a [`Commit`].
//!
//! What callers rely on:
//!
//! 1. A commit is there as a whole or not at all, and it is durable before its ticket resolves.
//! 2. Positions are assigned in commit order. [`Notifier::published`] grows only over durable commits
//!    (lazy ones: applied commits), and listeners are woken only after that.
//! 3. Commits submitted by one task are applied in the order of their submission.
//! 4. A key starts with its partition; a page never leaves it.

mod blocking;
mod codec;
mod commit;
mod committer;
pub mod contract;
pub mod engine;
mod keyspace;
mod log;
mod meta;
pub mod migrate;
mod notifier;
mod open;
mod owners;
mod queue;
mod ranges;
mod reads;
mod record;
mod store;
mod trim;

#[doc(hidden)]
pub use bytes;

pub use self::{
    blocking::run_blocking,
    codec::{KeyDecoder, KeyEncoder, KeyError, KeyPart},
    commit::{
        Commit, CommitError, Committed, Durability, MAX_COMMIT_BYTES, MAX_COMMIT_OPERATIONS,
        MAX_KEY_BYTES, MAX_VALUE_BYTES,
    },
    committer::Ticket,
    engine::{Direction, Engine, EngineError, EngineKind, View},
    keyspace::Keyspace,
    log::{LogEntry, LogRecord},
    notifier::{Listener, Notifier, Topic},
    owners::OwnerLocks,
    record::{Positioned, Record, RecordError, record_decode, record_encode},
    store::{Snapshot, Store, StoreError, StoreOptions},
};
