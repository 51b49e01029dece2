//! Whoever leaves a room may change devices without this server being told, and whoever comes may have:
//! read from the log.

use std::{sync::Weak, time::Duration};

use hearth_rooms::{
    RoomError,
    schema::{EventOrdinal, LOG_ROOM_EVENT, Membership, log_ordinal},
};
use hearth_storage::{Commit, LogRecord, Store, StoreError};
use hearth_types::StreamPosition;
use ruma::{
    OwnedUserId, RoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    E2ee, E2eeError,
    e2ee::Inner,
    schema::{DEVICE_LISTS, REMOTE_LISTS},
};

/// The consumer of the log whose cursor this is.
const CONSUMER: &str = "e2ee-remote-lists";
/// Log entries that are read at a time.
const LOG_PAGE: usize = 256;
/// How often the cursor is written. What is read twice after a crash does no harm.
const SAVE_EVERY: Duration = Duration::from_secs(30);
/// How long to wait after the log could not be read.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The content of a membership event, as far as it matters.
#[derive(Deserialize)]
struct Content {
    membership: MembershipState,
}

/// How far the log was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    at: StreamPosition,
    /// When it must be written, if there is something to write.
    save_at: Option<Instant>,
}

impl Cursor {
    /// Where a former run stopped. The first run of all starts with what happens from now on.
    pub(crate) async fn open(store: &Store) -> Result<Self, E2eeError> {
        if let Some(at) = store.cursor(CONSUMER).await? {
            return Ok(Self { at, save_at: None });
        }
        let at = store.notifier().published();
        store.set_cursor(CONSUMER, at).await?;
        Ok(Self { at, save_at: None })
    }

    /// Writes the cursor, if it is time.
    async fn save(&mut self, store: &Store) {
        if self.save_at.is_some_and(|save_at| save_at <= Instant::now()) {
            self.save_at = None;
            if let Err(error) = store.set_cursor(CONSUMER, self.at).await {
                tracing::warn!(%error, "how far the log was read could not be written");
            }
        }
    }
}

/// Follows the log for as long as the server runs. Keeps nothing alive while it waits.
pub(crate) async fn run(
    e2ee: Weak<Inner>,
    mut publications: watch::Receiver<StreamPosition>,
    mut cursor: Cursor,
) {
    loop {
        publications.mark_unchanged();
        let Some(inner) = e2ee.upgrade() else { return };
        let followed = {
            let e2ee = E2ee { inner };
            cursor.save(e2ee.store()).await;
            e2ee.follow_page(&mut cursor).await
        };
        match followed {
            Ok(true) => {}
            Ok(false) => {
                let changed = publications.changed();
                let waited = match cursor.save_at {
                    Some(save_at) => timeout_at(save_at, changed).await.unwrap_or(Ok(())),
                    None => changed.await,
                };
                if waited.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the log could not be read: lists may be older than told");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

impl E2ee {
    /// Reads the next entries; whether there may be more.
    async fn follow_page(&self, cursor: &mut Cursor) -> Result<bool, E2eeError> {
        let published = self.store().notifier().published();
        let records = self.store().log_after(cursor.at, LOG_PAGE).await?;
        for record in &records {
            match self.follow_record(record).await {
                Ok(()) => {}
                Err(E2eeError::Rooms(error)) if is_lasting(&error) => {
                    let LogRecord { position, entry } = record;
                    tracing::error!(%error, %position, topic = entry.topic.as_str(), "is passed over");
                }
                Err(error) => return Err(error),
            }
            cursor.at = record.position;
        }
        let full = records.len() >= LOG_PAGE;
        if !full {
            cursor.at = cursor.at.max(published);
        }
        if !records.is_empty() {
            cursor.save_at.get_or_insert_with(|| Instant::now() + SAVE_EVERY);
        }
        Ok(full)
    }

    async fn follow_record(&self, record: &LogRecord) -> Result<(), E2eeError> {
        let entry = &record.entry;
        if entry.kind != LOG_ROOM_EVENT {
            return Ok(());
        }
        let (Ok(room_id), Some(ordinal)) =
            (RoomId::parse(entry.topic.as_str()), log_ordinal(&entry.payload))
        else {
            return Ok(());
        };
        let event = self.rooms().event(&room_id, ordinal).await?;
        if *event.pdu.kind() != TimelineEventType::RoomMember {
            return Ok(());
        }
        let user_id = event.pdu.state_key().and_then(|key| UserId::parse(key).ok());
        let content = event.pdu.content_as::<Content>().ok();
        let (Some(user_id), Some(Content { membership })) = (user_id, content) else {
            return Ok(());
        };
        if membership == MembershipState::Join && !self.identity().is_local(&user_id) {
            return self.follow_join(&room_id, &user_id, event.header.replaces_state).await;
        }
        if !matches!(membership, MembershipState::Leave | MembershipState::Ban) {
            return Ok(());
        }
        if !self.identity().is_local(&user_id) {
            return self.distrust(&user_id).await;
        }
        if !self.rooms().is_resident(&room_id).await? {
            for user_id in self.kept_members(&room_id).await? {
                self.distrust(&user_id).await?;
            }
        }
        Ok(())
    }

    /// A user of another server has a join that replaces this event. While no other room was shared, their
    /// server told nothing of their devices: whoever is in the room looks again, also who was not told that
    /// they had left it.
    async fn follow_join(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        replaced: Option<EventOrdinal>,
    ) -> Result<(), E2eeError> {
        if let Some(replaced) = replaced {
            let before = self.rooms().event(room_id, replaced).await?.pdu.content_as::<Content>();
            if before.is_ok_and(|before| before.membership == MembershipState::Join) {
                return Ok(());
            }
        }
        let Some(head) = self.rooms().head(room_id).await? else { return Ok(()) };
        let encryption =
            self.rooms().state_ordinal(room_id, head.state, "m.room.encryption", "").await?;
        let others = self.rooms().rooms_of_remote_user(user_id, 2).await?;
        let was_shared = others.iter().any(|other| other != room_id);
        let is_trusted = self.remote_list(user_id).await?.is_some_and(|row| !row.stale);
        if encryption.is_none() || (was_shared && is_trusted) {
            return Ok(());
        }
        self.mark_stale(user_id).await?;
        let (e2ee, owner) = (self.clone(), user_id.to_owned());
        let work = move || async move {
            let mut commit = Commit::new(&owner);
            e2ee.note_list_change(&mut commit, &owner, None).await?;
            e2ee.store().commit(commit).await?;
            Ok::<_, E2eeError>(())
        };
        self.users().in_turn(user_id, work).await?;
        self.announce_list(user_id).await;
        Ok(())
    }

    /// Members of a room that this server has left, as far as something is kept of them.
    async fn kept_members(&self, room_id: &RoomId) -> Result<Vec<OwnedUserId>, E2eeError> {
        let members = self.rooms().members_with(room_id, Membership::Join).await?;
        let read = move |view: &hearth_storage::Snapshot| {
            let mut kept = Vec::new();
            for (user_id, _) in members {
                if view.get(&REMOTE_LISTS, &user_id, &())?.is_some()
                    || view.get(&DEVICE_LISTS, &user_id, &())?.is_some()
                {
                    kept.push(user_id);
                }
            }
            Ok(kept)
        };
        Ok(self.store().bulk(read).await?)
    }

    /// Trusts what is kept of this user no more, or forgets it if no room is shared.
    pub(super) async fn distrust(&self, user_id: &UserId) -> Result<(), E2eeError> {
        let has_changed =
            self.store().get(&DEVICE_LISTS, &user_id.to_owned(), &()).await?.is_some();
        if !has_changed && self.remote_list(user_id).await?.is_none() && !self.is_fetching(user_id)
        {
            return Ok(());
        }
        if self.shares_room_with(user_id).await? {
            return self.mark_stale(user_id).await;
        }
        self.forget_list(user_id).await
    }
}

/// Will the same question fail again, because of damaged rows? The store's own failures are waited out.
fn is_lasting(error: &RoomError) -> bool {
    !matches!(error, RoomError::Internal(source) if source.is::<StoreError>())
}
