//! What a device does and sees in a room.

use anyhow::{Context as _, Result, ensure};
use matrix_sdk::{
    Room, RoomMemberships, RoomState,
    attachment::AttachmentConfig,
    deserialized_responses::{TimelineEvent, TimelineEventKind},
    ruma::{
        EventId, OwnedEventId, OwnedRoomId, RoomId,
        api::client::room::get_room_event,
        events::room::message::{FileMessageEventContent, MessageType, RoomMessageEventContent},
    },
};

use crate::people::Device;

/// More than any scenario says in a room.
const WHOLE_HISTORY: u16 = 50;

/// An encrypted room of the two, made by Alice, who knows it as her direct chat with Bob.
pub(crate) async fn meet(alice: &Device, bob: &Device) -> Result<OwnedRoomId> {
    let bob_id = bob.user_id()?;
    let room_id = alice.client.create_dm(&bob_id).await?.room_id().to_owned();
    bob.until("an invite", async || {
        Ok(bob.client.get_room(&room_id).filter(|room| room.state() == RoomState::Invited))
    })
    .await?;
    bob.client.join_room_by_id(&room_id).await.context("join")?;
    alice
        .until("the direct chat", async || Ok(alice.client.get_dm_room(&bob_id).map(|_| ())))
        .await?;
    for device in [alice, bob] {
        device.is_with(&room_id, 2).await?;
    }
    Ok(room_id)
}

impl Device {
    fn room(&self, room_id: &RoomId) -> Result<Room> {
        self.client.get_room(room_id).with_context(|| format!("{room_id} is not known"))
    }

    /// Waits until this device sees so many members in the encrypted room.
    pub(crate) async fn is_with(&self, room_id: &RoomId, joined: usize) -> Result<()> {
        self.until("all are in the encrypted room", async || {
            let Ok(room) = self.room(room_id) else { return Ok(None) };
            let members = room.members_no_sync(RoomMemberships::JOIN).await?.len();
            Ok((members == joined && room.encryption_state().is_encrypted()).then_some(()))
        })
        .await
    }

    /// Sends a text, encrypted.
    pub(crate) async fn say(&self, room_id: &RoomId, text: &str) -> Result<OwnedEventId> {
        let content = RoomMessageEventContent::text_plain(text);
        let sent = self.room(room_id)?.send(content).await.with_context(|| format!("{text:?}"))?;
        ensure!(sent.encryption_info.is_some(), "{text:?} was sent in the clear");
        Ok(sent.response.event_id)
    }

    /// Waits until this device has decrypted a message with this text.
    pub(crate) async fn reads(&self, room_id: &RoomId, text: &str) -> Result<()> {
        self.until(&format!("the message {text:?}"), async || {
            let events = self.events(room_id).await?;
            Ok(events
                .iter()
                .any(|event| decrypted_text(event).as_deref() == Some(text))
                .then_some(()))
        })
        .await
    }

    /// Waits until this device sees the event and has no key for it.
    pub(crate) async fn cannot_read(&self, room_id: &RoomId, event_id: &EventId) -> Result<()> {
        let seen = self
            .until("the event", async || {
                let events = self.events(room_id).await?;
                Ok(events.into_iter().find(|event| event.event_id().as_deref() == Some(event_id)))
            })
            .await?;
        let unreadable = matches!(seen.kind, TimelineEventKind::UnableToDecrypt { .. });
        ensure!(unreadable, "read without a key: {:?}", seen.kind);
        Ok(())
    }

    /// Sends a file, encrypted.
    pub(crate) async fn send_file(
        &self,
        room_id: &RoomId,
        name: &str,
        bytes: Vec<u8>,
    ) -> Result<OwnedEventId> {
        let (room, kind) = (self.room(room_id)?, "text/plain".parse()?);
        let sending = room.send_attachment(name, &kind, bytes, AttachmentConfig::new());
        Ok(sending.await.context("the upload")?.event_id)
    }

    /// Waits until this device has decrypted an event that tells of a file.
    pub(crate) async fn sees_file(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<FileMessageEventContent> {
        self.until("the file", async || {
            let events = self.events(room_id).await?;
            let seen = events.iter().find(|event| event.event_id().as_deref() == Some(event_id));
            Ok(seen.and_then(decrypted).and_then(|content| match content.msgtype {
                MessageType::File(file) => Some(file),
                _ => None,
            }))
        })
        .await
    }

    /// Pages back to the start of the room.
    pub(crate) async fn loads_history(&self, room_id: &RoomId) -> Result<()> {
        self.until("the room", async || Ok(self.client.get_room(room_id))).await?;
        let (cache, _kept) = self.room(room_id)?.event_cache().await?;
        let loaded = cache.pagination().run_backwards_until(WHOLE_HISTORY).await?;
        ensure!(loaded.reached_start, "the history has no start");
        Ok(())
    }

    /// The event as the server holds it.
    pub(crate) async fn as_held(&self, room_id: &RoomId, event_id: &EventId) -> Result<String> {
        let request = get_room_event::v3::Request::new(room_id.to_owned(), event_id.to_owned());
        Ok(self.client.send(request).await?.event.json().get().to_owned())
    }

    async fn events(&self, room_id: &RoomId) -> Result<Vec<TimelineEvent>> {
        let Some(room) = self.client.get_room(room_id) else { return Ok(Vec::new()) };
        let (cache, _kept) = room.event_cache().await?;
        Ok(cache.events().await?)
    }
}

fn decrypted_text(event: &TimelineEvent) -> Option<String> {
    decrypted(event).map(|content| content.body().to_owned())
}

/// The message, if the event was encrypted and is not any more.
fn decrypted(event: &TimelineEvent) -> Option<RoomMessageEventContent> {
    let TimelineEventKind::Decrypted(decrypted) = &event.kind else { return None };
    decrypted.event.get_field("content").ok()?
}
