//! Messages put into commits.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hearth_storage::{Commit, CommitError, KeyPart, Keyspace, LogEntry, Record, Topic};
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

/// Messages of one sender and type on their way into queues.
pub(super) struct Letters<'a, P> {
    e2ee: &'a E2ee,
    /// At home at who sends.
    home: P,
    sender: &'a UserId,
    event_type: &'a str,
    /// Commits, of which the last one is being filled.
    commits: Vec<Commit>,
    /// Places that were taken in queues.
    places: Vec<Arc<Queue>>,
}

impl<'a, P: KeyPart> Letters<'a, P> {
    pub(super) fn new(e2ee: &'a E2ee, home: P, sender: &'a UserId, event_type: &'a str) -> Self {
        let commits = vec![Commit::new(&home)];
        Self { e2ee, home, sender, event_type, commits, places: Vec::new() }
    }

    /// How many messages there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// A message for a device of this server; dropped if its queue is full.
    pub(super) async fn add_local(
        &mut self,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        content: &RawValue,
    ) -> Result<(), E2eeError> {
        let Some(place) = self.e2ee.place_of_device(user_id, device_id).await? else {
            tracing::warn!(%user_id, %device_id, "too many messages wait for a device: dropped");
            return Ok(());
        };
        self.places.push(place);
        let event = Event { kind: self.event_type, sender: self.sender, content };
        let event = to_bytes(&event)?;
        if let Some(commit) = self.room_for(event.len()) {
            let position = commit.next_position();
            commit.effect_put(&TO_DEVICE, user_id, &(device_id.clone(), position), &event);
            commit.touch(user_topic(user_id));
        }
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
                let content = content.json();
                let size = content.get().len() + user_id.as_str().len() + MAX_NAME_BYTES;
                if bytes > 0 && bytes + size > MAX_OUTGOING_BYTES {
                    self.add_row(key, server, &std::mem::take(&mut row)).await?;
                    bytes = 0;
                }
                bytes += size;
                row.entry(user_id.clone()).or_default().insert(device_id.to_string(), content);
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
        let content = serde_json::to_string(&content)
            .map_err(|error| E2eeError::Internal(error.to_string()))?;
        let row = OutgoingRow { queued_ms: self.e2ee.now_ms(), content };
        if let Some(commit) = self.room_for(row.content.len()) {
            let position = commit.next_position();
            commit.effect_put(&OUTGOING, server, &position, &row);
            let topic = Topic::new(server.as_str());
            let kind = LogKind::Outgoing as u8;
            commit.log(position, LogEntry { kind, topic, payload: Bytes::new() });
        }
        Ok(())
    }

    /// The last commit.
    pub(super) fn last(&mut self) -> Option<&mut Commit> {
        self.commits.last_mut()
    }

    /// The commit that has room for a row of about this size.
    fn room_for(&mut self, bytes: usize) -> Option<&mut Commit> {
        let is_full = |commit: &Commit| {
            commit.len() + 2 > MAX_OPERATIONS || commit.bytes() + bytes + AROUND > MAX_COMMIT_BYTES
        };
        if self.commits.last().is_none_or(is_full) {
            self.commits.push(Commit::new(&self.home));
        }
        self.commits.last_mut()
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
        if let Some(last) = self.commits.last_mut() {
            last.require_absent(keyspace, partition, clustering);
            last.put(keyspace, partition, clustering, value);
        }
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
        let mut tickets = Vec::with_capacity(self.commits.len());
        for commit in self.commits.drain(..) {
            tickets.push(self.e2ee.store().submit(commit).await?);
        }
        for ticket in tickets {
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

fn to_bytes(value: &impl Serialize) -> Result<Bytes, E2eeError> {
    let json = serde_json::to_vec(value).map_err(|error| E2eeError::Internal(error.to_string()))?;
    Ok(json.into())
}

/// Can this be part of a key?
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && !text.contains('\0')
}
