//! Every row of this crate, and whose it is.

use hearth_storage::{Keyspace, postcard_record};
use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;

/// Items by their URI. An item of this server is its uploader's.
pub(crate) const ITEMS: Keyspace<(OwnedServerName, String), (), ItemRow> =
    Keyspace::new("media_items");

/// Which items have which bytes. A row is its item's, and belongs to whom the item belongs to.
pub(crate) const REFERENCES: Keyspace<ContentHash, (OwnedServerName, String), ()> =
    Keyspace::new("media_references");

/// What a user of this server has uploaded altogether. The user's.
pub(crate) const USAGE: Keyspace<OwnedUserId, (), UsageRow> = Keyspace::new("media_usage");

/// The names of this crate's keyspaces, for the store's opening.
pub const KEYSPACES: &[&str] = &[ITEMS.name(), REFERENCES.name(), USAGE.name()];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ItemRow {
    /// Who uploaded it.
    pub(crate) uploader: Option<OwnedUserId>,
    pub(crate) content: ContentRow,
}
postcard_record!(ItemRow, version = 1);

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
