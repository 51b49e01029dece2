//! Every row of this crate, and whose it is.

use hearth_storage::{Keyspace, postcard_record};
use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;

/// Items by their URI. An item of this server is its uploader's; one of another server, and a
/// thumbnail, are this server's.
pub(crate) const ITEMS: Keyspace<(OwnedServerName, String), (), ItemRow> =
    Keyspace::new("media_items");

/// Which items have which bytes. A row is its item's, and belongs to whom the item belongs to.
pub(crate) const REFERENCES: Keyspace<ContentHash, (OwnedServerName, String), ()> =
    Keyspace::new("media_references");

/// What a user of this server has uploaded altogether. The user's.
pub(crate) const USAGE: Keyspace<OwnedUserId, (), UsageRow> = Keyspace::new("media_usage");

/// URIs that a user of this server has made and not used yet, by media ID: until when they can be used, in
/// milliseconds. The user's.
pub(crate) const PENDING: Keyspace<OwnedUserId, String, PendingRow> =
    Keyspace::new("media_pending");

/// Items of other servers and thumbnails that are kept here, in the order of their last use: the day (see
/// [`cache`](crate::cache)), and their URI. The value is their size in bytes. The server's.
pub(crate) const CACHED: Keyspace<(), (u64, (OwnedServerName, String)), CachedRow> =
    Keyspace::new("media_cached");

/// Thumbnails that are kept of an item, by what [`ContentUri::thumbnail`](crate::ContentUri) calls them. The server's.
pub(crate) const MADE: Keyspace<(OwnedServerName, String), String, ()> =
    Keyspace::new("media_thumbnails");

/// Bytes that the operator has hidden. The server's.
pub(crate) const QUARANTINED: Keyspace<ContentHash, (), QuarantineRow> =
    Keyspace::new("media_quarantined");

/// The names of this crate's keyspaces, for the store's opening.
pub const KEYSPACES: &[&str] = &[
    ITEMS.name(),
    REFERENCES.name(),
    USAGE.name(),
    PENDING.name(),
    CACHED.name(),
    MADE.name(),
    QUARANTINED.name(),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ItemRow {
    pub(crate) origin: Origin,
    /// `None` until it is uploaded.
    pub(crate) content: Option<ContentRow>,
}
postcard_record!(ItemRow, version = 1);

/// How an item came to be here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// A user of this server uploaded it.
    Uploaded(OwnedUserId),
    /// A user of this server made its URI; it is there from the upload on, which must end before this time.
    Created(OwnedUserId, u64),
    /// It can be had again: it was fetched from another server, or is a thumbnail. Last asked for on this day.
    Cached(u64),
}

/// What is known of an item's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentRow {
    pub(crate) hash: ContentHash,
    pub(crate) bytes: u64,
    pub(crate) content_type: String,
    pub(crate) file_name: Option<String>,
    /// May browsers show it in place?
    pub(crate) inline: bool,
    /// When it came to be here.
    pub(crate) stored_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsageRow {
    pub(crate) items: u64,
    pub(crate) bytes: u64,
}
postcard_record!(UsageRow, version = 1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PendingRow {
    pub(crate) expires_ms: u64,
}
postcard_record!(PendingRow, version = 1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedRow {
    pub(crate) bytes: u64,
}
postcard_record!(CachedRow, version = 1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QuarantineRow {
    pub(crate) since_ms: u64,
}
postcard_record!(QuarantineRow, version = 1);
