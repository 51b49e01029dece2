//! Guests leave rooms that no longer admit them: `m.room.guest_access` is followed in the log
//! (CS "Guest Access", server behaviour).

use std::time::Duration;

use hearth_http::Shutdown;
use hearth_rooms::{
    RoomError, Rooms,
    schema::{LOG_ROOM_EVENT, Membership, log_ordinal},
};
use hearth_storage::{LogRecord, StoreError};
use hearth_types::StreamPosition;
use hearth_users::Users;
use ruma::{RoomId, events::TimelineEventType};
use tokio::time::{Instant, sleep, timeout_at};

/// The consumer of the log whose cursor this is.
const CONSUMER: &str = "guests";
/// Log entries that are read at a time.
const LOG_PAGE: usize = 256;
/// How often the cursor is written. What is read twice after a crash does no harm.
const SAVE_EVERY: Duration = Duration::from_secs(30);
/// How long to wait after the log could not be read.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Sees guests out, as long as the server runs.
#[derive(Debug)]
pub struct GuestKeeper {
    rooms: Rooms,
    users: Users,
    at: StreamPosition,
}

impl GuestKeeper {
    /// Goes on where a former run stopped; the first begins with what happens from now on. `None` on a
    /// server without guests, whose log then waits for nobody.
    ///
    /// # Errors
    ///
    /// [`RoomError::Internal`] if the cursor cannot be read or written.
    pub async fn open(rooms: Rooms, users: Users) -> Result<Option<Self>, RoomError> {
        let store = rooms.store();
        let known = store.cursor(CONSUMER).await?;
        if !users.config().allow_guests {
            if known.is_some() {
                store.remove_cursor(CONSUMER).await?;
            }
            return Ok(None);
        }
        let at = known.unwrap_or_else(|| store.notifier().published());
        store.set_cursor(CONSUMER, at).await?;
        Ok(Some(Self { rooms, users, at }))
    }

    /// Follows the log until the server stops.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut publications = self.rooms.store().notifier().publications();
        let mut save_at = Instant::now() + SAVE_EVERY;
        loop {
            publications.mark_unchanged();
            let more = match self.read_page().await {
                Ok(more) => more,
                Err(error) => {
                    tracing::error!(?error, "guests may be in rooms that no longer admit them");
                    sleep(AFTER_FAILURE).await;
                    continue;
                }
            };
            if Instant::now() >= save_at {
                save_at = Instant::now() + SAVE_EVERY;
                if let Err(error) = self.rooms.store().set_cursor(CONSUMER, self.at).await {
                    tracing::warn!(%error, "how far the log was read could not be written");
                }
            }
            if more {
                continue;
            }
            tokio::select! {
                () = shutdown.requested() => return,
                changed = timeout_at(save_at, publications.changed()) => {
                    if matches!(changed, Ok(Err(_))) {
                        return;
                    }
                }
            }
        }
    }

    /// Reads the next entries; whether there may be more.
    async fn read_page(&mut self) -> Result<bool, RoomError> {
        let store = self.rooms.store();
        let published = store.notifier().published();
        let records = store.log_after(self.at, LOG_PAGE).await?;
        let full = records.len() >= LOG_PAGE;
        for record in &records {
            match self.read_record(record).await {
                Ok(()) => {}
                // A damaged room harms itself alone.
                Err(error) if is_lasting(&error) => {
                    let topic = record.entry.topic.as_str();
                    tracing::error!(%error, topic, "guests may be in a room that admits none");
                }
                Err(error) => return Err(error),
            }
            self.at = record.position;
        }
        if !full {
            self.at = self.at.max(published);
        }
        Ok(full)
    }

    async fn read_record(&self, record: &LogRecord) -> Result<(), RoomError> {
        let entry = &record.entry;
        if entry.kind != LOG_ROOM_EVENT {
            return Ok(());
        }
        let (Ok(room_id), Some(ordinal)) =
            (RoomId::parse(entry.topic.as_str()), log_ordinal(&entry.payload))
        else {
            return Ok(());
        };
        let event = self.rooms.event(&room_id, ordinal).await?;
        if *event.pdu.kind() == TimelineEventType::RoomGuestAccess {
            self.see_out(&room_id).await?;
        }
        Ok(())
    }

    /// Makes the guests of this server leave the room, unless it admits guests now.
    async fn see_out(&self, room_id: &RoomId) -> Result<(), RoomError> {
        let summary = self.rooms.room_summary(room_id).await?;
        if summary.is_none_or(|summary| summary.guest_can_join) {
            return Ok(());
        }
        for (user_id, _) in self.rooms.members_with(room_id, Membership::Join).await? {
            if !self.rooms.identity().is_local(&user_id) {
                continue;
            }
            // One who cannot be seen out keeps nobody else inside.
            match self.users.is_guest(&user_id).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    tracing::warn!(%error, %user_id, %room_id, "it is not known who is a guest");
                    continue;
                }
            }
            if let Err(error) = self.rooms.leave(room_id, &user_id, None).await {
                tracing::warn!(%error, %user_id, %room_id, "a guest could not be seen out");
            }
        }
        Ok(())
    }
}

/// Is it one room that is damaged, rather than the store that does not answer?
fn is_lasting(error: &RoomError) -> bool {
    !matches!(error, RoomError::Internal(source) if source.is::<StoreError>())
}
