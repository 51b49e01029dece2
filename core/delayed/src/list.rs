//! What a user left with the server, and what became of it.

use ruma::{OwnedEventId, OwnedRoomId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Delayed, DelayedError,
    schema::{Ending, Found},
};

/// Events in one answer.
const PAGE_EVENTS: usize = 50;

/// A delayed event, as its user sees it.
#[derive(Clone, Debug)]
pub struct DelayedEvent {
    /// Its ID.
    pub delay_id: String,
    /// The room that it is for.
    pub room_id: OwnedRoomId,
    /// Its type.
    pub event_type: String,
    /// Its state key, if it is state.
    pub state_key: Option<String>,
    /// The delay, in milliseconds.
    pub delay_ms: u64,
    /// When the delay last began, in milliseconds since the epoch.
    pub running_since_ms: u64,
    /// The content.
    pub content: Box<RawValue>,
    /// When it was sent, cancelled or refused, in milliseconds since the epoch.
    pub finalised_ms: Option<u64>,
    /// The event in the room, once it is sent.
    pub event_id: Option<OwnedEventId>,
    /// `errcode` and `error`, if it was refused.
    pub error: Option<(String, String)>,
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is to be sent.
    Scheduled,
    /// It was sent, cancelled or refused.
    Finalised,
}

/// How an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is in its room.
    Send,
    /// Somebody cancelled it.
    Cancel,
    /// It was refused.
    Error,
}

/// Why an event ended when it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Somebody wanted it.
    Action,
    /// Its delay was over.
    Delay,
}

/// By which time events are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// That at which they are, or were, to be sent.
    #[default]
    SendTs,
    /// That at which they were finalised, or else are to be sent.
    OriginServerTs,
    /// That at which their delay last began.
    RunningSince,
}

/// Where the first page begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Since {
    /// At the time of the request.
    #[default]
    Now,
    /// At this time, in milliseconds since the epoch.
    At(u64),
    /// Behind all events.
    End,
}

/// Which events are asked for.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Only those that stand there.
    pub status: Option<Status>,
    /// Only those for this room.
    pub room_id: Option<OwnedRoomId>,
    /// Only those of this type.
    pub event_type: Option<String>,
    /// Only those that ended so.
    pub outcome: Option<Outcome>,
    /// Only those that ended because of this.
    pub reason: Option<Reason>,
    /// By which time they come.
    pub order: Order,
    /// The latest first.
    pub backwards: bool,
    /// Where to begin.
    pub since: Since,
    /// Where to go on instead: the [`DelayedList::next`] of the last answer.
    pub from: Option<String>,
}

/// Some of a user's events.
#[derive(Clone, Debug)]
pub struct DelayedList {
    /// In the order that was asked for.
    pub events: Vec<DelayedEvent>,
    /// Where to go on, if there are more.
    pub next: Option<String>,
}

impl Delayed {
    /// One event of this user's.
    pub async fn get(
        &self,
        user_id: &UserId,
        delay_id: &str,
    ) -> Result<DelayedEvent, DelayedError> {
        let found = self.inner.find(delay_id).await?.filter(|found| found.user_id == user_id);
        self.shown(found.ok_or(DelayedError::NotFound)?).await
    }

    /// A page of this user's events.
    ///
    /// # Errors
    ///
    /// [`DelayedError::InvalidParam`] for a [`ListRequest::from`] that no answer had.
    pub async fn list(
        &self,
        user_id: &UserId,
        request: &ListRequest,
    ) -> Result<DelayedList, DelayedError> {
        let after = request.from.as_deref().map(parse_token).transpose()?;
        let mut all = self.inner.of_user(user_id).await?;
        all.retain(|found| request.wants(found));
        let key = |found: &Found| (request.order.time_of(found), found.delay_id.clone());
        all.sort_by_cached_key(key);
        if request.backwards {
            all.reverse();
        }
        if let Some(after) = after {
            let is_passed = |key: &(u64, String)| {
                if request.backwards { *key < after } else { *key > after }
            };
            all.retain(|found| is_passed(&key(found)));
        } else {
            let since_ms = match request.since {
                Since::Now => self.inner.now_ms(),
                Since::At(since_ms) => since_ms,
                Since::End => u64::MAX,
            };
            let is_passed =
                |time| if request.backwards { time <= since_ms } else { time >= since_ms };
            all.retain(|found| is_passed(request.order.time_of(found)));
        }
        let has_more = all.len() > PAGE_EVENTS;
        all.truncate(PAGE_EVENTS);
        let next = all.last().filter(|_| has_more).map(|last| {
            let (time, delay_id) = key(last);
            format!("{time}_{delay_id}")
        });
        let mut events = Vec::with_capacity(all.len());
        for found in all {
            events.push(self.shown(found).await?);
        }
        Ok(DelayedList { events, next })
    }

    async fn shown(&self, found: Found) -> Result<DelayedEvent, DelayedError> {
        let content = self.inner.content(&found).await?;
        let Found { delay_id, row, .. } = found;
        let (mut event_id, mut error) = (None, None);
        let finalised_ms = row.finalised.as_ref().map(|ended| ended.at_ms);
        match row.finalised.map(|ended| ended.ending) {
            Some(Ending::Sent(sent)) => event_id = Some(sent),
            Some(Ending::Refused { errcode, message }) => error = Some((errcode, message)),
            Some(Ending::Cancelled) | None => {}
        }
        Ok(DelayedEvent {
            delay_id,
            room_id: row.room_id,
            event_type: row.event_type,
            state_key: row.state_key,
            delay_ms: row.delay_ms,
            running_since_ms: row.since_ms,
            content,
            finalised_ms,
            event_id,
            error,
        })
    }
}

impl ListRequest {
    fn wants(&self, found: &Found) -> bool {
        let row = &found.row;
        let ended = row.finalised.as_ref();
        let status = if ended.is_some() { Status::Finalised } else { Status::Scheduled };
        let outcome = ended.map(|ended| match ended.ending {
            Ending::Sent(_) => Outcome::Send,
            Ending::Cancelled => Outcome::Cancel,
            Ending::Refused { .. } => Outcome::Error,
        });
        let reason =
            ended.map(|ended| if ended.by_action { Reason::Action } else { Reason::Delay });
        self.status.is_none_or(|wanted| wanted == status)
            && self.room_id.as_ref().is_none_or(|wanted| *wanted == row.room_id)
            && self.event_type.as_ref().is_none_or(|wanted| *wanted == row.event_type)
            && (self.outcome.is_none() || self.outcome == outcome)
            && (self.reason.is_none() || self.reason == reason)
    }
}

impl Order {
    fn time_of(self, found: &Found) -> u64 {
        let row = &found.row;
        let send_ms = row.since_ms.saturating_add(row.delay_ms);
        match self {
            Self::SendTs => send_ms,
            Self::OriginServerTs => row.finalised.as_ref().map_or(send_ms, |ended| ended.at_ms),
            Self::RunningSince => row.since_ms,
        }
    }
}

fn parse_token(token: &str) -> Result<(u64, String), DelayedError> {
    let parts = token.split_once('_');
    let parsed = parts.and_then(|(time, id)| Some((time.parse().ok()?, id.to_owned())));
    parsed.ok_or(DelayedError::InvalidParam("from: no answer had this token"))
}
