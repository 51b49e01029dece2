//! Every row of this crate. A user's rows are that user's; see each keyspace for the exceptions.

use bytes::Bytes;
use hearth_storage::{
    KeyEncoder, Keyspace, Positioned, Record, RecordError, postcard_record, record_decode,
    record_encode,
};
use hearth_types::StreamPosition;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedServerName, OwnedTransactionId, OwnedUserId};
use serde::{Deserialize, Serialize};

/// The device keys of this server's users (CS "Device keys"): the JSON as uploaded, with the signatures
/// of the user's own keys that came later, without `unsigned`.
pub(crate) const DEVICE_KEYS: Keyspace<OwnedUserId, OwnedDeviceId, Bytes> =
    Keyspace::new("e2ee_device_keys");

/// One-time keys that nobody has claimed: by device, algorithm, and the order of their upload (position
/// of the upload, place in it).
pub(crate) const ONE_TIME_KEYS: Keyspace<
    OwnedUserId,
    (OwnedDeviceId, String, StreamPosition, u32),
    KeyRow,
> = Keyspace::new("e2ee_one_time_keys");

/// One-time keys that were claimed lately, by device and ID (`algorithm:key`): an upload that is repeated
/// because its answer was lost must not bring them back. The value is the key itself, without its
/// signatures, behind the position at which it was claimed.
pub(crate) const CLAIMED_KEYS: Keyspace<OwnedUserId, (OwnedDeviceId, String), Positioned<Bytes>> =
    Keyspace::new("e2ee_claimed_keys");

/// Fallback keys, one for each device and algorithm.
pub(crate) const FALLBACK_KEYS: Keyspace<OwnedUserId, (OwnedDeviceId, String), FallbackRow> =
    Keyspace::new("e2ee_fallback_keys");

/// Cross-signing keys by their usage (`master`, `self_signing`, `user_signing`): JSON, with the
/// signatures that everybody may see. Of other servers' users too, as far as their lists are kept.
pub(crate) const CROSS_SIGNING_KEYS: Keyspace<OwnedUserId, String, Bytes> =
    Keyspace::new("e2ee_cross_signing_keys");

/// Signatures that a user of this server (the partition) made with their user-signing key on somebody's
/// master key, by that user and the master key's ID: a JSON object from the signing key's ID to the
/// signature, behind the position at which it came. For the signer's eyes alone.
pub(crate) const USER_SIGNATURES: Keyspace<OwnedUserId, (OwnedUserId, String), Positioned<Bytes>> =
    Keyspace::new("e2ee_user_signatures");

/// When a user's devices or cross-signing keys last changed: of this server's users, and of those of
/// other servers while a room is shared with them. The position is that of the row in [`DEVICE_LIST_CHANGES`].
pub(crate) const DEVICE_LISTS: Keyspace<OwnedUserId, (), StreamPosition> =
    Keyspace::new("e2ee_device_lists");

/// When devices of a user of this server last changed: the version of the list that other servers are
/// told. Changes of cross-signing keys have no part in it, for nothing that tells of them names a version.
pub(crate) const DEVICE_VERSIONS: Keyspace<OwnedUserId, (), StreamPosition> =
    Keyspace::new("e2ee_device_versions");

/// Whose list changed when: one row for each user, at their last change. The server's.
pub(crate) const DEVICE_LIST_CHANGES: Keyspace<(), StreamPosition, ListChangeRow> =
    Keyspace::new("e2ee_device_list_changes");

/// What is kept of the list of a user of another server.
pub(crate) const REMOTE_LISTS: Keyspace<OwnedUserId, (), RemoteListRow> =
    Keyspace::new("e2ee_remote_lists");

/// Devices of users of other servers, as their server told them.
pub(crate) const REMOTE_DEVICES: Keyspace<OwnedUserId, OwnedDeviceId, RemoteDeviceRow> =
    Keyspace::new("e2ee_remote_devices");

/// Messages that wait for a device, in order: events as clients get them (`type`, `sender`, `content`).
/// Anybody's commit may add a row, as an effect, at a position of its own.
pub(crate) const TO_DEVICE: Keyspace<OwnedUserId, (OwnedDeviceId, StreamPosition), Bytes> =
    Keyspace::new("e2ee_to_device");

/// Requests to send that were answered, by the sending device, the event type and the transaction ID.
/// The value is when, in milliseconds.
pub(crate) const SENT_TRANSACTIONS: Keyspace<
    OwnedUserId,
    (OwnedDeviceId, String, OwnedTransactionId),
    Timestamp,
> = Keyspace::new("e2ee_sent_transactions");

/// Messages to devices that another server (the partition) has sent, by sender and message ID. The value
/// is when, in milliseconds.
pub(crate) const RECEIVED_MESSAGES: Keyspace<OwnedServerName, (OwnedUserId, String), Timestamp> =
    Keyspace::new("e2ee_received_messages");

/// The same in the order in which they came.
pub(crate) const RECEIVED_ORDER: Keyspace<OwnedServerName, StreamPosition, ReceivedRow> =
    Keyspace::new("e2ee_received_order");

/// The servers that have rows there, and when the last one came. The server's.
pub(crate) const RECEIVED_FROM: Keyspace<(), OwnedServerName, StreamPosition> =
    Keyspace::new("e2ee_received_from");

/// Messages to devices that wait for another server, in order. The destination's; anybody's commit may
/// add a row, as an effect, at a position of its own.
pub(crate) const OUTGOING: Keyspace<OwnedServerName, StreamPosition, OutgoingRow> =
    Keyspace::new("e2ee_outgoing");

/// Versions of a user's key backup. A deleted one stays for as long as it is the newest, so that no number
/// is used twice.
pub(crate) const BACKUP_VERSIONS: Keyspace<OwnedUserId, u64, BackupVersionRow> =
    Keyspace::new("e2ee_backup_versions");

/// Backed-up keys by version, room and session.
pub(crate) const BACKUP_KEYS: Keyspace<OwnedUserId, (u64, OwnedRoomId, String), BackupKeyRow> =
    Keyspace::new("e2ee_backup_keys");

/// A user's dehydrated device (MSC3814); there is one at most.
pub(crate) const DEHYDRATED: Keyspace<OwnedUserId, (), DehydratedRow> =
    Keyspace::new("e2ee_dehydrated");

/// Devices that are gone and whose rows may still be there.
pub(crate) const SWEEPS: Keyspace<OwnedUserId, OwnedDeviceId, ()> = Keyspace::new("e2ee_sweeps");

/// The names of this crate's keyspaces, for the store's opening.
pub const KEYSPACES: &[&str] = &[
    DEVICE_KEYS.name(),
    ONE_TIME_KEYS.name(),
    CLAIMED_KEYS.name(),
    FALLBACK_KEYS.name(),
    CROSS_SIGNING_KEYS.name(),
    USER_SIGNATURES.name(),
    DEVICE_LISTS.name(),
    DEVICE_VERSIONS.name(),
    DEVICE_LIST_CHANGES.name(),
    REMOTE_LISTS.name(),
    REMOTE_DEVICES.name(),
    TO_DEVICE.name(),
    SENT_TRANSACTIONS.name(),
    RECEIVED_MESSAGES.name(),
    RECEIVED_ORDER.name(),
    RECEIVED_FROM.name(),
    OUTGOING.name(),
    BACKUP_VERSIONS.name(),
    BACKUP_KEYS.name(),
    DEHYDRATED.name(),
    SWEEPS.name(),
];

/// Whose list changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListChangeRow(pub(crate) OwnedUserId);
postcard_record!(ListChangeRow, version = 1);

/// A one-time key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRow {
    /// The key's ID behind `algorithm:`.
    pub(crate) key_id: String,
    /// The key as uploaded: a JSON object, or a string for unsigned ones.
    pub(crate) json: String,
}
postcard_record!(KeyRow, version = 1);

/// A fallback key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FallbackRow {
    /// The key.
    pub(crate) key: KeyRow,
    /// Was it handed out?
    pub(crate) used: bool,
}
postcard_record!(FallbackRow, version = 1);

/// What is kept of the list of a user of another server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemoteListRow {
    /// The `stream_id` that the list had when it was last fetched as a whole.
    pub(crate) fetched: u64,
    /// The `stream_id`s of the updates since then, in the order in which they came.
    pub(crate) updates: Vec<u64>,
    /// How many devices it has.
    pub(crate) devices: u32,
    /// Is something missing, so that it must be fetched again before it is used?
    pub(crate) stale: bool,
}
postcard_record!(RemoteListRow, version = 1);

/// A device of a user of another server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemoteDeviceRow {
    /// Its keys, as JSON, if it has some.
    pub(crate) keys: Option<String>,
    /// Its name, if it is told.
    pub(crate) display_name: Option<String>,
}
postcard_record!(RemoteDeviceRow, version = 1);

/// A time in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timestamp(pub(crate) u64);
postcard_record!(Timestamp, version = 1);

/// A message that another server has sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReceivedRow {
    pub(crate) sender: OwnedUserId,
    pub(crate) message_id: String,
    /// When, in milliseconds.
    pub(crate) received_ms: u64,
}
postcard_record!(ReceivedRow, version = 1);

/// A message that waits for another server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutgoingRow {
    /// Since when, in milliseconds.
    pub(crate) queued_ms: u64,
    /// The content of `m.direct_to_device`, as JSON.
    pub(crate) content: String,
}
postcard_record!(OutgoingRow, version = 1);

/// A version of a key backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupVersionRow {
    /// The algorithm's name.
    pub(crate) algorithm: String,
    /// Its data, a JSON object.
    pub(crate) auth_data: String,
    /// Counts the changes of its keys.
    pub(crate) etag: u64,
    /// How many keys it has.
    pub(crate) count: u64,
    /// The bytes of their data; of those that were there before this was counted, nothing.
    pub(crate) bytes: u64,
    /// Was it deleted? Its keys may be there for a while.
    pub(crate) deleted: bool,
}

/// The same as it was written before bytes were counted.
#[derive(Deserialize)]
struct FormerBackupVersionRow {
    algorithm: String,
    auth_data: String,
    etag: u64,
    count: u64,
    deleted: bool,
}

impl Record for BackupVersionRow {
    fn encode(&self, out: &mut KeyEncoder) -> Result<(), RecordError> {
        record_encode(2, self, out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        if bytes.first() != Some(&1) {
            return record_decode(2, bytes);
        }
        let row: FormerBackupVersionRow = record_decode(1, bytes)?;
        let FormerBackupVersionRow { algorithm, auth_data, etag, count, deleted } = row;
        Ok(Self { algorithm, auth_data, etag, count, bytes: 0, deleted })
    }
}

/// A backed-up key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupKeyRow {
    pub(crate) first_message_index: u64,
    pub(crate) forwarded_count: u64,
    pub(crate) is_verified: bool,
    /// The algorithm's data, a JSON object.
    pub(crate) session_data: String,
}
postcard_record!(BackupKeyRow, version = 1);

/// A dehydrated device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DehydratedRow {
    pub(crate) device_id: String,
    /// What only the user can read, a JSON object.
    pub(crate) device_data: String,
    pub(crate) display_name: Option<String>,
}
postcard_record!(DehydratedRow, version = 1);
