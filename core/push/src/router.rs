//! Reads the log and finds out whom of the users with a pusher each entry concerns.

use std::{sync::Arc, time::Duration};

use hearth_rooms::schema::{
    LOG_OUT_OF_BAND, LOG_ROOM_EVENT, Membership, Standing, StoredEvent, TimelineIndex, log_ordinal,
};
use hearth_storage::LogRecord;
use hearth_sync::FlatEvent;
use hearth_types::StreamPosition;
use hearth_users::{LogKind, ReceiptLog};
use ruma::{OwnedUserId, RoomId, UserId, events::TimelineEventType, push::Action};
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    PushError,
    lane::{Item, Pushed, What},
    service::Inner,
    throttle::Throttle,
};

/// Log entries that are read at a time.
const LOG_PAGE: usize = 256;
/// How long to wait after the log could not be read.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Routes what comes, for as long as the server runs.
pub(crate) async fn run(inner: Arc<Inner>, throttle: Arc<Throttle>) {
    let mut publications = inner.parts.store.notifier().publications();
    loop {
        publications.mark_unchanged();
        let began = Instant::now();
        match inner.route_page().await {
            Ok(true) => {}
            Ok(false) => {
                if publications.changed().await.is_err() {
                    return;
                }
                sleep_until(began + throttle.read_every()).await;
            }
            Err(error) => {
                tracing::error!(%error, "the log could not be read: nothing is pushed");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

impl Inner {
    /// Distributes the next entries; whether there may be more.
    async fn route_page(self: &Arc<Self>) -> Result<bool, PushError> {
        let published = self.parts.store.notifier().published();
        if self.registry.is_empty() {
            self.lanes.lock().set_routed(published);
            return Ok(false);
        }
        if self.pass_over().await? {
            return Ok(true);
        }
        let routed = self.lanes.lock().routed();
        let records = self.parts.store.log_after(routed, LOG_PAGE).await?;
        let newcomers = self.registry.take_newcomers();
        self.audiences.welcome(&self.parts.rooms, &newcomers).await?;
        let is_limited = self.throttle().is_some_and(|throttle| throttle.is_limited());
        self.lanes.lock().set_limited(is_limited);
        let full = records.len() >= LOG_PAGE;
        let mut until = if full { routed } else { published };
        for record in &records {
            match self.route(record).await {
                Ok(()) => {}
                Err(error) if error.is_lasting() => {
                    let LogRecord { position, entry } = record;
                    tracing::error!(%error, %position, topic = entry.topic.as_str(), "is not pushed");
                }
                Err(error) => return Err(error),
            }
            until = until.max(record.position);
        }
        self.lanes.lock().set_routed(until);
        self.hire();
        Ok(full)
    }

    async fn route(self: &Arc<Self>, record: &LogRecord) -> Result<(), PushError> {
        let LogRecord { position, entry } = record;
        let kind = entry.kind;
        if kind == LOG_ROOM_EVENT {
            let room_id = RoomId::parse(entry.topic.as_str()).ok();
            if let (Some(room_id), Some(ordinal)) = (room_id, log_ordinal(&entry.payload)) {
                let event = self.parts.rooms.event(&room_id, ordinal).await?;
                return self.route_event(&room_id, &event, *position).await;
            }
        } else if kind == LOG_OUT_OF_BAND {
            let user_id = UserId::parse(entry.topic.as_str()).ok();
            let room_id = str::from_utf8(&entry.payload).ok().and_then(|id| RoomId::parse(id).ok());
            if let (Some(user_id), Some(room_id)) = (user_id, room_id) {
                return self.route_invitation(&room_id, &user_id, *position).await;
            }
        } else if kind == LogKind::Receipt as u8 || kind == LogKind::PrivateReceipt as u8 {
            let receipt = serde_json::from_slice::<ReceiptLog>(&entry.payload).ok();
            if let Some(receipt) = receipt {
                return self.queue_badge(&receipt.user_id, *position).await;
            }
        }
        Ok(())
    }

    /// An event of a room's timeline.
    async fn route_event(
        self: &Arc<Self>,
        room_id: &RoomId,
        event: &StoredEvent,
        position: StreamPosition,
    ) -> Result<(), PushError> {
        if !matches!(event.index, Some(TimelineIndex::Live(_)))
            || event.header.standing != Standing::Accepted
        {
            return Ok(());
        }
        if let Some((user_id, membership)) = member_of(event)
            && self.registry.contains(&user_id)
        {
            let is_joined = membership == Membership::Join;
            self.audiences.member(room_id, &user_id, is_joined);
            if membership == Membership::Invite {
                if let Some(flat) = FlatEvent::of(&event.pdu) {
                    self.notify(room_id, event, &flat, &user_id, false, position).await?;
                }
            } else if !is_joined {
                self.queue_badge(&user_id, position).await?;
            }
        }
        let is_large = self.parts.sync.is_large(room_id).await?;
        let concerned = self.concerned(room_id, event, is_large, position).await?;
        if !concerned.is_empty()
            && let Some(flat) = FlatEvent::of(&event.pdu)
        {
            for user_id in concerned {
                self.notify(room_id, event, &flat, &user_id, is_large, position).await?;
            }
        }
        // Whoever sends has read what came before.
        self.queue_badge(event.pdu.sender(), position).await?;
        if *event.pdu.kind() == TimelineEventType::RoomRedaction && !is_large {
            let audience = self.audiences.of(&self.parts.rooms, &self.registry, room_id).await?;
            for user_id in audience.iter() {
                self.queue_badge(user_id, position).await?;
            }
        }
        Ok(())
    }

    /// Those in the room whose rules are asked: none whose pushers are behind anyhow. In large rooms only whom the
    /// event mentions: otherwise each message would cost as many evaluations as there are members with a pusher.
    async fn concerned(
        &self,
        room_id: &RoomId,
        event: &StoredEvent,
        is_large: bool,
        position: StreamPosition,
    ) -> Result<Vec<OwnedUserId>, PushError> {
        let mentions = if is_large { mentions_of(event) } else { Mentions::default() };
        let mut concerned: Vec<OwnedUserId> = if !is_large || mentions.room {
            let audience = self.audiences.of(&self.parts.rooms, &self.registry, room_id).await?;
            audience.iter().cloned().collect()
        } else {
            mentions.user_ids
        };
        concerned.sort_unstable();
        concerned.dedup();
        let lanes = self.lanes.lock();
        concerned.retain(|id| {
            id != event.pdu.sender() && lanes.any_takes(&self.registry.of_user(id), position)
        });
        Ok(concerned)
    }

    /// Queues an event for a user's pushers if the user's rules say so.
    async fn notify(
        self: &Arc<Self>,
        room_id: &RoomId,
        event: &StoredEvent,
        flat: &FlatEvent,
        user_id: &UserId,
        mentions_only: bool,
        position: StreamPosition,
    ) -> Result<(), PushError> {
        let Some(row) = self.parts.rooms.user_room(user_id, room_id).await? else { return Ok(()) };
        let concerns = match row.details.membership {
            Membership::Join => row.joined_at < position,
            Membership::Invite => row.details.event == event.ordinal,
            _ => false,
        };
        if !concerns || row.details.is_out_of_band() {
            return Ok(());
        }
        let judge = self.parts.sync.judge(user_id, room_id, &row).await?;
        let Some(actions) = judge.actions_for(flat).await else { return Ok(()) };
        if mentions_only && !actions.iter().any(Action::is_highlight) {
            return Ok(());
        }
        if row.details.membership == Membership::Invite
            && self.parts.users.blocks_invites(user_id).await?
        {
            return Ok(());
        }
        let (room_id, ordinal) = (room_id.to_owned(), event.ordinal);
        let what = What::Event { room_id, ordinal, actions: actions.into() };
        self.queue(user_id, &Item { position, what }).await
    }

    /// An invitation to a room that this server is not in.
    async fn route_invitation(
        self: &Arc<Self>,
        room_id: &RoomId,
        user_id: &UserId,
        position: StreamPosition,
    ) -> Result<(), PushError> {
        if !self.registry.contains(user_id) {
            return Ok(());
        }
        let Some(row) = self.parts.rooms.user_room(user_id, room_id).await? else { return Ok(()) };
        if row.position != position || row.details.membership != Membership::Invite {
            return Ok(());
        }
        let Some(kept) = self.parts.rooms.out_of_band(room_id, user_id).await? else {
            return Ok(());
        };
        let judge = self.parts.sync.judge(user_id, room_id, &row).await?;
        let Some(actions) = judge.actions(kept.event.pdu()).await else { return Ok(()) };
        if self.parts.users.blocks_invites(user_id).await? {
            return Ok(());
        }
        let what = What::Invitation { room_id: room_id.to_owned(), actions: actions.into() };
        self.queue(user_id, &Item { position, what }).await
    }

    /// A user's unread count may be another.
    async fn queue_badge(
        self: &Arc<Self>,
        user_id: &UserId,
        position: StreamPosition,
    ) -> Result<(), PushError> {
        self.queue(user_id, &Item { position, what: What::Badge }).await
    }

    /// Queues something for all pushers of a user. One that has too much waiting falls behind, which its row
    /// must say before the cursor passes what it misses.
    async fn queue(self: &Arc<Self>, user_id: &UserId, item: &Item) -> Result<(), PushError> {
        for entry in self.registry.of_user(user_id) {
            let pushed = self.lanes.lock().push(&entry, item.clone());
            if pushed == Pushed::Full {
                self.advance(&entry, |progress| progress.is_behind = true).await?;
                self.lanes.lock().set_behind(&entry, 0);
            }
        }
        Ok(())
    }
}

/// Whose membership an event is, and which.
fn member_of(event: &StoredEvent) -> Option<(OwnedUserId, Membership)> {
    if *event.pdu.kind() != TimelineEventType::RoomMember {
        return None;
    }
    let membership = Membership::of(&event.pdu)?;
    let user_id = OwnedUserId::try_from(event.pdu.state_key()?).ok()?;
    Some((user_id, membership))
}

/// What an event says about whom it mentions (CS "User and room mentions").
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mentions {
    user_ids: Vec<OwnedUserId>,
    room: bool,
}

fn mentions_of(event: &StoredEvent) -> Mentions {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.mentions")]
        mentions: Mentions,
    }
    let mut mentions =
        event.pdu.content_as::<Content>().map(|content| content.mentions).unwrap_or_default();
    // The end of a room is for everybody in it.
    mentions.room |= *event.pdu.kind() == TimelineEventType::RoomTombstone;
    mentions
}
