//! Sends one notification after the other, and what becomes of it.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use hearth_rooms::schema::{Membership, StoredEvent, TimelineIndex, UserRoomRow};
use hearth_sync::is_read;
use hearth_types::{Pdu, StreamPosition};
use ruma::{RoomId, UserId, events::TimelineEventType, push::Action};
use serde::Deserialize;

use crate::{
    Push, PushError,
    lane::{Item, What, Work},
    lanes::Outcome,
    names::names_in,
    payload::{self, Names, ToldEvent},
    registry::Entry,
    service::Inner,
    throttle::Throttle,
};

/// The largest answer of a gateway that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Notifications that a pusher gets that was behind: the newest ones.
const MAX_CAUGHT_UP: usize = 200;

/// What became of one notification.
enum Sent {
    /// The gateway has it. The badge that it was told.
    Delivered(u64),
    /// There was nothing to send, or nobody to send it to any more.
    Nothing,
    /// To be tried again.
    Failed(String),
}

/// What a gateway said.
enum Reply {
    /// It has it, or does not want it.
    Taken,
    /// The pushkey is not valid any more.
    Rejected,
    /// To be tried again.
    Failed(String),
}

/// Turns that it takes to look for what a pusher missed, besides its own.
const LOOK_BACK_TURNS: u32 = 15;

/// Works off what is ready, until nothing is.
pub(crate) async fn work(inner: Arc<Inner>, throttle: Arc<Throttle>) {
    loop {
        throttle.turn().await;
        let next = inner.lanes.lock().next();
        let Some(job) = next else { return };
        let entry = &job.entry;
        let outcome = match &job.work {
            Work::Send { item, counted } => inner.deliver(entry, item, *counted).await,
            Work::LookBack => {
                throttle.charge(LOOK_BACK_TURNS);
                Box::pin(inner.look_for_missed(entry)).await
            }
            Work::KeepUp { until } => inner.keep_up(entry, *until).await,
        };
        inner.lanes.lock().done(&job, outcome);
    }
}

impl Inner {
    async fn deliver(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        item: &Item,
        counted: StreamPosition,
    ) -> Outcome {
        let sent = match &item.what {
            _ if item.position <= entry.progress().delivered => Ok(Sent::Nothing),
            What::Badge => self.send_badge(entry, false, counted).await,
            What::Event { room_id, ordinal, actions } => {
                match self.parts.rooms.event(room_id, *ordinal).await {
                    Ok(event) => self.send_event(entry, room_id, &event, actions, counted).await,
                    Err(error) => Err(error.into()),
                }
            }
            What::Invitation { room_id, actions } => {
                self.send_invitation(entry, room_id, actions, counted).await
            }
        };
        match self.settle(entry, item.position, sent).await {
            Ok(()) => Outcome::Done,
            Err(why) => self.fall_behind(entry, &why).await,
        }
    }

    /// Writes down that a notification is done with, before anything else is sent; says why if it is not.
    async fn settle(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        position: StreamPosition,
        sent: Result<Sent, PushError>,
    ) -> Result<(), String> {
        match sent {
            Ok(Sent::Nothing) => Ok(()),
            Ok(Sent::Failed(why)) => Err(why),
            Ok(Sent::Delivered(badge)) => {
                let advanced = self.advance(entry, move |progress| {
                    progress.delivered = progress.delivered.max(position);
                    progress.failures = 0;
                    progress.badge = Some(badge);
                });
                advanced.await.map(|_| ()).map_err(|error| error.to_string())
            }
            Err(error) if error.is_lasting() => {
                tracing::error!(%error, user_id = %entry.user_id, %position, "is not pushed");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// A pusher failed: its row says so before the log may go on without it.
    async fn fall_behind(self: &Arc<Self>, entry: &Arc<Entry>, why: &str) -> Outcome {
        let failures = entry.progress().failures.saturating_add(1);
        let retry_ms = self.now_ms().saturating_add(self.backoff_ms(entry, failures));
        let (user_id, app_id) = (&entry.user_id, &entry.key.0);
        tracing::info!(%user_id, app_id, failures, why, "a push gateway fails");
        let noted = self.advance(entry, move |progress| {
            progress.is_behind = true;
            progress.failures = failures;
            progress.retry_ms = retry_ms;
        });
        if let Err(error) = noted.await {
            tracing::error!(%error, %user_id, app_id, "a failure could not be noted");
        }
        Outcome::Behind { retry_ms }
    }

    /// Finds what a pusher missed.
    async fn look_for_missed(self: &Arc<Self>, entry: &Arc<Entry>) -> Outcome {
        let until = self.parts.store.notifier().published();
        let progress = entry.progress();
        let missed = self.missed(&entry.user_id, progress.delivered, until, MAX_CAUGHT_UP).await;
        let items: VecDeque<Item> = match missed {
            Ok(missed) => missed.into_iter().rev().map(Item::from).collect(),
            Err(error) => return self.fall_behind(entry, &error.to_string()).await,
        };
        if items.is_empty() {
            // Also shows whether the gateway is back.
            let sent = self.send_badge(entry, progress.failures > 0, until).await;
            if let Err(why) = self.settle(entry, progress.delivered, sent).await {
                return self.fall_behind(entry, &why).await;
            }
        }
        Outcome::Missed { items, until }
    }

    /// What a pusher missed up to a position is settled: it keeps up again, unless it lost touch with what was
    /// routed meanwhile.
    async fn keep_up(self: &Arc<Self>, entry: &Arc<Entry>, until: StreamPosition) -> Outcome {
        let (inner, owned) = (Arc::clone(self), Arc::clone(entry));
        let advanced = self.advance(entry, move |progress| {
            progress.delivered = progress.delivered.max(until);
            // In the pusher's turn: whoever finds the queue full from now on says so after this.
            if inner.lanes.lock().keep_up(&owned) {
                progress.is_behind = false;
                progress.failures = 0;
            }
        });
        match advanced.await {
            Ok(_) => Outcome::Done,
            Err(error) => self.fall_behind(entry, &error.to_string()).await,
        }
    }

    /// Tells the unread count if it is another than the gateway knows, or in any case.
    async fn send_badge(
        &self,
        entry: &Arc<Entry>,
        in_any_case: bool,
        counted: StreamPosition,
    ) -> Result<Sent, PushError> {
        let badge = self.badge(&entry.user_id, counted).await?;
        if !in_any_case && entry.progress().badge.unwrap_or_default() == badge {
            return Ok(Sent::Nothing);
        }
        self.send(entry, None, badge).await
    }

    /// Tells of an event, unless it was read or redacted meanwhile, or the user has left.
    async fn send_event(
        &self,
        entry: &Arc<Entry>,
        room_id: &RoomId,
        event: &StoredEvent,
        actions: &[Action],
        counted: StreamPosition,
    ) -> Result<Sent, PushError> {
        let user_id = &entry.user_id;
        let Some(row) = self.parts.rooms.user_room(user_id, room_id).await? else {
            return Ok(Sent::Nothing);
        };
        let is_over = match row.details.membership {
            Membership::Join => self.is_read(user_id, room_id, &row, event).await?,
            Membership::Invite => row.details.event != event.ordinal,
            _ => true,
        };
        if is_over || event.header.redacted_by.is_some() {
            return Ok(Sent::Nothing);
        }
        let badge = self.badge(user_id, counted).await?;
        let names = self.names_of(room_id, event.pdu.sender()).await?;
        self.send(entry, Some(&told(entry, room_id, &event.pdu, names, actions)), badge).await
    }

    /// Has a user read an event of a room that they are in?
    async fn is_read(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
        event: &StoredEvent,
    ) -> Result<bool, PushError> {
        let Some(TimelineIndex::Live(position)) = event.index else { return Ok(false) };
        // Nobody reads what has not happened yet.
        if !self.parts.users.receipts_changed_since(room_id, position) {
            return Ok(false);
        }
        let marks = self.parts.sync.read_marks(user_id, room_id, row).await?;
        Ok(is_read(&marks, event, position))
    }

    /// Tells of an invitation to a room that this server is not in, unless it is over.
    async fn send_invitation(
        &self,
        entry: &Arc<Entry>,
        room_id: &RoomId,
        actions: &[Action],
        counted: StreamPosition,
    ) -> Result<Sent, PushError> {
        let user_id = &entry.user_id;
        let row = self.parts.rooms.user_room(user_id, room_id).await?;
        if !row.is_some_and(|row| row.details.membership == Membership::Invite) {
            return Ok(Sent::Nothing);
        }
        let Some(kept) = self.parts.rooms.out_of_band(room_id, user_id).await? else {
            return Ok(Sent::Nothing);
        };
        let badge = self.badge(user_id, counted).await?;
        let pdu = kept.event.pdu();
        let names = names_in(&kept.stripped_state, pdu);
        self.send(entry, Some(&told(entry, room_id, pdu, names, actions)), badge).await
    }

    async fn send(
        &self,
        entry: &Arc<Entry>,
        event: Option<&ToldEvent<'_>>,
        badge: u64,
    ) -> Result<Sent, PushError> {
        let body = payload::body(entry, event, badge)
            .map_err(|error| PushError::InvalidParam(error.to_string()))?;
        Ok(match self.post(entry, body).await {
            Reply::Taken => Sent::Delivered(badge),
            Reply::Failed(why) => Sent::Failed(why),
            Reply::Rejected => {
                let (user_id, app_id) = (&entry.user_id, &entry.key.0);
                tracing::info!(%user_id, app_id, "a push gateway rejects a pushkey: its pusher goes");
                self.reject(entry).await?;
                Sent::Nothing
            }
        })
    }

    async fn post(&self, entry: &Entry, body: Bytes) -> Reply {
        let target = entry.target();
        let (Some(gateway), Some(url)) = (self.gateway(), &target.url) else {
            return Reply::Failed("there is no way to it".to_owned());
        };
        let timeout = self.parts.config.request_timeout();
        let answer = match gateway.post(url, body, timeout, MAX_ANSWER_BYTES).await {
            Ok(answer) => answer,
            Err(error) => return Reply::Failed(error.to_string()),
        };
        match answer.status {
            200..=299 if rejects(&answer.body, &entry.key.1) => Reply::Rejected,
            200..=299 => Reply::Taken,
            // It would say the same again of this notification.
            400 | 413 | 422 => {
                let (user_id, status) = (&entry.user_id, answer.status);
                tracing::warn!(%user_id, status, "a push gateway refuses a notification");
                Reply::Taken
            }
            status => Reply::Failed(format!("it answered {status}")),
        }
    }

    /// The gateway does not know the pushkey any more.
    async fn reject(&self, entry: &Arc<Entry>) -> Result<(), PushError> {
        let Some(inner) = self.this.upgrade() else { return Ok(()) };
        Push { inner }.delete_pusher(&entry.user_id, &entry.key.0, &entry.key.1).await
    }
}

fn told<'a>(
    entry: &Entry,
    room_id: &'a RoomId,
    event: &'a Pdu,
    names: Names,
    actions: &'a [Action],
) -> ToldEvent<'a> {
    let is_member = *event.kind() == TimelineEventType::RoomMember;
    ToldEvent {
        event_id: event.id(),
        room_id,
        kind: event.kind().to_string(),
        sender: event.sender(),
        content: event.content(),
        user_is_target: is_member && event.state_key() == Some(entry.user_id.as_str()),
        names,
        actions,
    }
}

/// Does a gateway's answer reject this pushkey?
fn rejects(body: &[u8], pushkey: &str) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        rejected: Vec<String>,
    }
    serde_json::from_slice::<Answer>(body)
        .is_ok_and(|answer| answer.rejected.iter().any(|rejected| rejected == pushkey))
}
