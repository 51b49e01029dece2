//! Messages put into commits.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hearth_storage::{Commit, CommitError, KeyPart, Keyspace, LogEntry, Record, Ticket, Topic};
use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedTransactionId, OwnedUserId, ServerName, UserId,
    events::AnyToDeviceEventContent,
    serde::{Base64, Raw, base64::UrlSafe},
    to_device::DeviceIdOrAllDevices,
};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::lengths::Queue;
use crate::{
    E2ee, E2eeError, LogKind,
    schema::{OUTGOING, OutgoingRow, TO_DEVICE},
    user_topic,
};

/// The largest content of one message in bytes: as large as an event (CS "Size limits").
pub(super) const MAX_CONTENT_BYTES: usize = 64 << 10;
/// The longest event type, transaction or message ID in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Bytes of the contents of one row for another server; one content is always in it. With everything
/// around them they stay below what a value may have.
const MAX_OUTGOING_BYTES: usize = 60 << 10;
/// Operations in one commit; the row by which repetitions are known and those of the log come on top.
const MAX_OPERATIONS: usize = 900;
/// Bytes in one commit, below what the store takes.
const MAX_COMMIT_BYTES: usize = 3 << 20;
/// Bytes of a row's key, and what is around a content, at most.
const AROUND: usize = 16 << 10;

/// What a request to send is known by: device, event type and transaction ID.
pub(super) type RequestKey = (OwnedDeviceId, String, OwnedTransactionId);
/// Contents by user and device.
pub(super) type Contents =
    BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>>;

/// An event as its receiver gets it.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    sender: &'a UserId,
    content: &'a RawValue,
}

/// The content of `m.direct_to_device` (SS "m.direct_to_device").
#[derive(Serialize)]
struct DirectToDevice<'a> {
    sender: &'a UserId,
    #[serde(rename = "type")]
    event_type: &'a str,
    message_id: &'a str,
    messages: &'a BTreeMap<OwnedUserId, BTreeMap<String, &'a RawValue>>,
}

/// Messages of one sender and type on their way into queues. Whoever adds some has seen that they may all
/// be sent: full commits are handed over at once, so that a large request does not fill memory.
pub(super) struct Letters<'a, P> {
    e2ee: &'a E2ee,
    /// At home at who sends.
    home: P,
    sender: &'a UserId,
    event_type: &'a str,
    /// The commit that is being filled.
    commit: Commit,
    /// Those that were full.
    tickets: Vec<Ticket>,
    /// Places that were taken in queues.
    places: Vec<Arc<Queue>>,
}

impl<'a, P: KeyPart> Letters<'a, P> {
    pub(super) fn new(e2ee: &'a E2ee, home: P, sender: &'a UserId, event_type: &'a str) -> Self {
        let commit = Commit::new(&home);
        let (tickets, places) = (Vec::new(), Vec::new());
        Self { e2ee, home, sender, event_type, commit, tickets, places }
    }

    /// A message for a device of this server; dropped if its queue is full.
    pub(super) async fn add_local(
        &mut self,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        content: &RawValue,
    ) -> Result<(), E2eeError> {
        let elsewhere = !self.e2ee.identity().is_local(self.sender);
        let Some(place) = self.e2ee.place_of_device(user_id, device_id, elsewhere).await? else {
            tracing::warn!(%user_id, %device_id, "too many messages wait for a device: dropped");
            return Ok(());
        };
        self.places.push(place);
        let event = Event { kind: self.event_type, sender: self.sender, content };
        let event = to_bytes(&event)?;
        let commit = self.room_for(event.len()).await?;
        let position = commit.next_position();
        commit.effect_put(&TO_DEVICE, user_id, &(device_id.clone(), position), &event);
        commit.touch(user_topic(user_id));
        Ok(())
    }

    /// Messages for users of another server that a request (`key`) has, in as many rows as it takes;
    /// dropped if its queue is full.
    pub(super) async fn add_remote(
        &mut self,
        key: &RequestKey,
        server: &OwnedServerName,
        contents: Contents,
    ) -> Result<(), E2eeError> {
        let (mut bytes, mut row) = (0, BTreeMap::<_, BTreeMap<_, _>>::new());
        for (user_id, devices) in &contents {
            for (device_id, content) in devices {
                let (content, device_id) = (content.json(), device_id.to_string());
                let names = written_bytes(user_id.as_str()) + written_bytes(&device_id);
                let size = content.get().len() + names;
                if bytes > 0 && bytes + size > MAX_OUTGOING_BYTES {
                    self.add_row(key, server, &std::mem::take(&mut row)).await?;
                    bytes = 0;
                }
                bytes += size;
                row.entry(user_id.clone()).or_default().insert(device_id, content);
            }
        }
        if row.is_empty() { Ok(()) } else { self.add_row(key, server, &row).await }
    }

    async fn add_row(
        &mut self,
        key: &RequestKey,
        server: &OwnedServerName,
        messages: &BTreeMap<OwnedUserId, BTreeMap<String, &RawValue>>,
    ) -> Result<(), E2eeError> {
        let Some(place) = self.e2ee.place_of_server(server).await? else {
            tracing::warn!(%server, "too many messages to devices wait for a server: dropped");
            return Ok(());
        };
        self.places.push(place);
        let (sender, event_type) = (self.sender, self.event_type);
        let message_id = message_id(sender, key, server, messages)?;
        let content = DirectToDevice { sender, event_type, message_id: &message_id, messages };
        let content = serde_json::to_string(&content).map_err(|error| not_json(&error))?;
        let row = OutgoingRow { queued_ms: self.e2ee.now_ms(), content };
        let commit = self.room_for(row.content.len()).await?;
        let position = commit.next_position();
        commit.effect_put(&OUTGOING, server, &position, &row);
        let (kind, topic) = (LogKind::Outgoing as u8, Topic::new(server.as_str()));
        commit.log(position, LogEntry { kind, topic, payload: Bytes::new() });
        Ok(())
    }

    /// The last commit.
    pub(super) fn last(&mut self) -> &mut Commit {
        &mut self.commit
    }

    /// The commit, if need be a new one, that has room for a row of about this size.
    async fn room_for(&mut self, bytes: usize) -> Result<&mut Commit, CommitError> {
        if self.commit.len() + 2 > MAX_OPERATIONS
            || self.commit.bytes() + bytes + AROUND > MAX_COMMIT_BYTES
        {
            let full = std::mem::replace(&mut self.commit, Commit::new(&self.home));
            self.tickets.push(self.e2ee.store().submit(full).await?);
        }
        Ok(&mut self.commit)
    }

    /// Makes them durable, unless there is this row already; then nothing happens, but for what several
    /// commits of a concurrent repetition may bring twice.
    pub(super) async fn post<Q: KeyPart, C: KeyPart, V: Record>(
        mut self,
        keyspace: &Keyspace<Q, C, V>,
        partition: &Q,
        clustering: &C,
        value: &V,
    ) -> Result<(), E2eeError> {
        self.commit.require_absent(keyspace, partition, clustering);
        self.commit.put(keyspace, partition, clustering, value);
        let done = self.submit().await;
        if done.is_err() {
            // About right: some of several commits may have happened.
            for place in &self.places {
                place.shrink(1);
            }
        }
        match done {
            Ok(()) | Err(CommitError::Precondition) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn submit(&mut self) -> Result<(), CommitError> {
        let last = std::mem::replace(&mut self.commit, Commit::new(&self.home));
        self.tickets.push(self.e2ee.store().submit(last).await?);
        for ticket in self.tickets.drain(..) {
            ticket.done().await?;
        }
        Ok(())
    }
}

/// The ID of a message for another server. A request that is repeated has the same ones again: what the
/// server got of it before a crash cut it short comes once.
fn message_id(
    sender: &UserId,
    key: &RequestKey,
    server: &ServerName,
    messages: &impl Serialize,
) -> Result<String, E2eeError> {
    let digest = Sha256::digest(to_bytes(&(sender, key, server, messages))?);
    // The specification allows 32 characters.
    let some = digest.iter().copied().take(24).collect();
    Ok(Base64::<UrlSafe>::new(some).encode())
}

/// At most so many bytes has this text as JSON, with what is around it in an object.
fn written_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        byte if byte.is_ascii_control() => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum::<usize>() + 8
}

fn to_bytes(value: &impl Serialize) -> Result<Bytes, E2eeError> {
    Ok(serde_json::to_vec(value).map_err(|error| not_json(&error))?.into())
}

fn not_json(error: &serde_json::Error) -> E2eeError {
    E2eeError::Internal(error.to_string())
}

/// Can this be part of a key?
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && !text.contains('\0')
}
