//! History from before what is held (SS "Backfilling and retrieving missing events").

use std::collections::HashSet;

use hearth_rooms::{CheckedPdu, RoomError, Verdict, schema::Standing};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, RoomId, ServerName, UInt,
    api::{
        Direction,
        federation::{
            backfill::get_backfill::v1 as get_backfill,
            event::get_event_by_timestamp::v1 as get_event_by_timestamp,
        },
    },
};

use super::{
    Remote,
    asking::{brief, in_turn, refusal},
};

/// Events that one backfill asks for at most.
const MAX_EVENTS: usize = 100;
/// And at least: a client that reads on comes again.
const MIN_EVENTS: usize = 50;
/// Gaps that one backfill names.
const MAX_GAPS: usize = 20;
/// Servers that one backfill asks.
const MAX_SERVERS: usize = 4;
/// Events of one backfill whose state is asked for: as many strands of history are followed.
const MAX_STRANDS: usize = 5;

/// A server's answer to a backfill.
struct Told {
    /// What it told, and what can be as it told it.
    ids: HashSet<OwnedEventId>,
    /// It may have more.
    is_cut_off: bool,
    /// Something of it was not here.
    is_news: bool,
}

impl Told {
    /// Which of these the server does not have. Where there was no room for all, nothing is said of the
    /// others.
    fn not_had(&self, wanted: &[OwnedEventId]) -> Vec<OwnedEventId> {
        let had = |event_id: &&OwnedEventId| self.is_cut_off || self.ids.contains(*event_id);
        wanted.iter().filter(|event_id| !had(event_id)).cloned().collect()
    }
}

impl Remote {
    /// Fetches events from before the room's deepest gap; `false` if none could be had.
    pub(super) async fn backfill_in_turn(
        &self,
        room_id: &RoomId,
        limit: usize,
    ) -> Result<bool, RoomError> {
        let rooms = self.federation().rooms();
        let seen = rooms.history_gaps(room_id, MAX_GAPS).await?;
        let _turn = self.history_locks().lock(room_id).await;
        let gaps = rooms.history_gaps(room_id, MAX_GAPS).await?;
        if gaps != seen {
            // Somebody else has fetched meanwhile.
            return Ok(true);
        }
        if gaps.is_empty() {
            return Ok(false);
        }
        let (wanted, children): (Vec<OwnedEventId>, Vec<OwnedEventId>) = gaps.into_iter().unzip();
        // Whoever made the event behind the deepest gap had what it follows.
        let author = match children.first() {
            Some(child) => rooms.event_by_id(room_id, child).await?,
            None => None,
        };
        let author = author.map(|child| child.pdu.sender().server_name().to_owned());
        for server in self.neighbours(room_id, author).await? {
            match self.backfill_by(&server, room_id, &wanted, limit).await {
                Ok(told) => {
                    rooms.history_not_had(room_id, told.not_had(&wanted)).await?;
                    if told.is_news {
                        return Ok(true);
                    }
                }
                Err(RoomError::UnknownRoom) => {
                    rooms.history_not_had(room_id, wanted.clone()).await?;
                }
                Err(error @ RoomError::Internal(_)) => return Err(error),
                Err(error) => tracing::debug!(%room_id, %server, %error, "no history from here"),
            }
        }
        Ok(false)
    }

    /// Fetches one event of the past, and some before it, of a certain server. Whether it is here then.
    pub(crate) async fn fetch_history(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<bool, RoomError> {
        let _turn = self.history_locks().lock(room_id).await;
        if !self.is_history(room_id, event_id).await? {
            self.backfill_by(server, room_id, &[event_id.to_owned()], MAX_EVENTS).await?;
        }
        self.is_history(room_id, event_id).await
    }

    /// Has the event a place in the room's graph?
    async fn is_history(&self, room_id: &RoomId, event_id: &EventId) -> Result<bool, RoomError> {
        let held = self.federation().rooms().event_by_id(room_id, event_id).await?;
        Ok(held.is_some_and(|held| held.header.standing != Standing::Outlier))
    }

    /// Servers of the room, a few of them: each time others.
    async fn neighbours(
        &self,
        room_id: &RoomId,
        first: Option<OwnedServerName>,
    ) -> Result<Vec<OwnedServerName>, RoomError> {
        let servers = self.federation().rooms().remote_servers(room_id).await?;
        let first = first.filter(|first| servers.contains(first));
        // One of them may be the one that comes first.
        let skipped = self.next_history_turn().wrapping_mul(MAX_SERVERS - 1);
        let mut servers = in_turn(self.federation(), first, servers.iter().cloned(), skipped);
        servers.truncate(MAX_SERVERS);
        Ok(servers)
    }

    async fn backfill_by(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Told, RoomError> {
        let federation = self.federation();
        let limit = limit.clamp(MIN_EVENTS, MAX_EVENTS);
        let asked_for = UInt::try_from(limit).unwrap_or_default();
        let request = get_backfill::Request::new(room_id.to_owned(), from.to_vec(), asked_for);
        let answer =
            federation.client().send(server, request, brief(federation)).await.map_err(refusal)?;
        let version = federation.rooms().version(room_id).await?;
        let mut pdus = answer.pdus;
        // More than was asked for is not looked at.
        pdus.truncate(MAX_EVENTS);
        let is_cut_off = pdus.len() >= limit;
        let mut events = self.checked(&version, room_id, pdus).await;
        let ids = events.iter().map(|event| event.pdu().id().to_owned()).collect();
        let mut told = Told { ids, is_cut_off, is_news: false };
        let unknown = self.unknown_of(room_id, &events).await?;
        events.retain(|event| unknown.contains(event.pdu().id()));
        if events.is_empty() {
            return Ok(told);
        }
        let mut state_before = Vec::new();
        for event_id in self.strands(room_id, &events).await? {
            let state = self.state_before(server, &version, room_id, &event_id).await?;
            state_before.push((event_id, state));
        }
        let ids: Vec<_> = events.iter().map(|event| event.pdu().id().to_owned()).collect();
        let received = federation.rooms().receive_history(room_id, events, state_before, server);
        for (event_id, verdict) in ids.iter().zip(received.await?) {
            match verdict {
                Verdict::Accepted | Verdict::SoftFailed => told.is_news = true,
                Verdict::Rejected(_) if self.is_history(room_id, event_id).await? => {
                    told.is_news = true;
                }
                // By what this server tells it cannot be: another one is asked for it.
                Verdict::Rejected(_) => drop(told.ids.remove(event_id)),
                Verdict::Known | Verdict::MissingPrev(_) | Verdict::MissingAuth(_) => {}
            }
        }
        Ok(told)
    }

    /// The IDs of those events that are not part of the history here.
    async fn unknown_of(
        &self,
        room_id: &RoomId,
        events: &[CheckedPdu],
    ) -> Result<HashSet<OwnedEventId>, RoomError> {
        let mut unknown = HashSet::with_capacity(events.len());
        for event in events {
            let event_id = event.pdu().id();
            let held = self.federation().rooms().event_by_id(room_id, event_id).await?;
            if held.is_none_or(|held| held.index.is_none()) {
                unknown.insert(event_id.to_owned());
            }
        }
        Ok(unknown)
    }

    /// The events whose previous events are neither here nor among them: where the state must be told.
    async fn strands(
        &self,
        room_id: &RoomId,
        events: &[CheckedPdu],
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let among: HashSet<_> = events.iter().map(|event| event.pdu().id()).collect();
        let mut strands = Vec::new();
        for event in events {
            let before = event.pdu().prev_events();
            let mut open = false;
            for previous in before.iter().filter(|previous| !among.contains(&***previous)) {
                let held = self.federation().rooms().event_by_id(room_id, previous).await?;
                open |= held.is_none_or(|held| held.index.is_none());
            }
            if open {
                strands.push(event.pdu().id().to_owned());
            }
            if strands.len() >= MAX_STRANDS {
                break;
            }
        }
        Ok(strands)
    }

    /// Asks the room's servers for the event nearest to a time, and fetches it.
    pub(super) async fn event_at(
        &self,
        room_id: &RoomId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Direction,
    ) -> Result<Option<(OwnedEventId, MilliSecondsSinceUnixEpoch)>, RoomError> {
        let federation = self.federation();
        for server in self.neighbours(room_id, None).await? {
            let request = get_event_by_timestamp::Request::new(room_id.to_owned(), at, direction);
            let asked = federation.client().send(&server, request, brief(federation)).await;
            let Ok(found) = asked else { continue };
            let _turn = self.history_locks().lock(room_id).await;
            let held = federation.rooms().event_by_id(room_id, &found.event_id).await?;
            if held.is_none_or(|held| held.index.is_none()) {
                let from = [found.event_id.clone()];
                match self.backfill_by(&server, room_id, &from, MIN_EVENTS).await {
                    Ok(told) if told.is_news => {}
                    Err(error @ RoomError::Internal(_)) => return Err(error),
                    Ok(_) | Err(_) => continue,
                }
            }
            // Whether the reader may see it, and when it really was, the room decides.
            let held = federation.rooms().event_by_id(room_id, &found.event_id).await?;
            if let Some(held) = held {
                return Ok(Some((found.event_id, held.pdu.origin_server_ts())));
            }
        }
        Ok(None)
    }
}
