//! Rooms that were joined with part of their state: the rest is fetched behind the join (SS "Joining
//! Rooms", `members_omitted`), also after a restart.

use std::{
    collections::{BTreeSet, HashMap},
    ops::ControlFlow,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hearth_rooms::{PartialRoom, RoomError};
use hearth_storage::{Commit, Keyspace, postcard_record};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, ServerName,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::{
    Remote,
    asking::{MAX_CANDIDATES, Refusals, in_turn, unfit},
};

/// Partial joins that are not followed up to the end: from the join until all servers of the room are
/// told what was made here meanwhile.
pub(crate) const PARTIAL_JOINS: Keyspace<(), OwnedRoomId, PartialJoinRow> =
    Keyspace::new("federation_partial_joins");

/// The row of [`PARTIAL_JOINS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartialJoinRow {
    /// The join.
    join: OwnedEventId,
    /// Who answered it, and so has the state.
    resident: OwnedServerName,
}
postcard_record!(PartialJoinRow, version = 1);

/// Rooms that are completed at a time: each holds the state of a large room in memory.
const CONCURRENCY: usize = 2;
/// The first pause after a room could not be completed; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// Attempts, in about ten minutes, in which a state is not taken without those of its events whose senders'
/// servers are out of reach. The keys of servers that are gone are not waited for.
const PATIENT_ATTEMPTS: usize = 7;
/// How often the list is looked at without a reason.
const IDLE: Duration = Duration::from_mins(10);

/// When a room is tried again, how long the pause before that was, and how often it was tried.
struct Pause {
    until: Instant,
    length: Duration,
    attempts: usize,
}

impl Remote {
    /// Completes rooms, those of an earlier run first, until the server stops.
    pub(crate) fn resume_partial_joins(&self) {
        let remote = self.clone();
        self.federation().spawn(async move { remote.complete_rooms().await });
    }

    async fn complete_rooms(&self) {
        let mut pauses: HashMap<OwnedRoomId, Pause> = HashMap::new();
        if let Err(error) = self.finish_completed().await {
            tracing::error!(%error, "who was not told of rooms while they were partial is not known");
        }
        loop {
            let partial = match self.federation().rooms().partial_rooms().await {
                Ok(partial) => partial,
                Err(error) => {
                    tracing::error!(%error, "partial rooms cannot be listed");
                    Vec::new()
                }
            };
            pauses.retain(|room_id, _| partial.iter().any(|room| room.room_id == *room_id));
            let now = Instant::now();
            let due: Vec<PartialRoom> = partial
                .into_iter()
                .filter(|room| pauses.get(&room.room_id).is_none_or(|pause| pause.until <= now))
                .collect();
            let idle = due.is_empty();
            let mut attempts = FuturesUnordered::new();
            let mut due = due.into_iter();
            loop {
                while attempts.len() < CONCURRENCY
                    && let Some(room) = due.next()
                {
                    let before = pauses.get(&room.room_id).map_or(0, |pause| pause.attempts);
                    attempts.push(self.attempt(room, before));
                }
                match attempts.next().await {
                    Some((room_id, true)) => drop(pauses.remove(&room_id)),
                    Some((room_id, false)) => postpone(&mut pauses, room_id),
                    None => break,
                }
            }
            if idle {
                self.wait(&pauses).await;
            }
        }
    }

    /// Waits for the next partial join, or for the next room to be due.
    async fn wait(&self, pauses: &HashMap<OwnedRoomId, Pause>) {
        let now = Instant::now();
        let due = pauses.values().map(|pause| pause.until.saturating_duration_since(now)).min();
        let longest = due.unwrap_or(IDLE).min(IDLE);
        drop(timeout(longest, self.completion().notified()).await);
    }

    /// Tries to complete a room; says whether it is complete.
    async fn attempt(&self, room: PartialRoom, before: usize) -> (OwnedRoomId, bool) {
        let completed = self.complete(&room, before).await;
        let PartialRoom { room_id, .. } = room;
        if let Err(error) = &completed {
            tracing::info!(%room_id, %error, "a room's state is still partial");
        }
        (room_id, completed.is_ok())
    }

    /// Asks the server that answered the join first; of the others, each time some more.
    async fn complete(&self, room: &PartialRoom, before: usize) -> Result<(), RoomError> {
        let federation = self.federation();
        let rooms = federation.rooms();
        let version = rooms.version(&room.room_id).await?;
        let others = rooms.remote_servers(&room.room_id).await?;
        let row = federation.store().get(&PARTIAL_JOINS, &(), &room.room_id).await?;
        let resident = row.filter(|row| row.join == room.join).map(|row| row.resident);
        let skipped = before.wrapping_mul(MAX_CANDIDATES - 1);
        let servers = in_turn(federation, resident, others.iter().cloned(), skipped);
        let mut refusals = Refusals::default();
        for server in servers {
            match self.complete_by(&server, &version, room, before).await {
                Ok(()) => return Ok(()),
                Err(error) => refusals.note(&server, error)?,
            }
        }
        Err(refusals.most_telling())
    }

    async fn complete_by(
        &self,
        server: &ServerName,
        version: &RoomVersionId,
        room: &PartialRoom,
        before: usize,
    ) -> Result<(), RoomError> {
        let room_id = &room.room_id;
        let (state, auth_chain, keyless) =
            self.whole_state(server, version, room_id, room.join.clone()).await?;
        if before < PATIENT_ATTEMPTS && keyless > 0 {
            return Err(unfit(server, format!("nobody can judge {keyless} events of the state")));
        }
        let rooms = self.federation().rooms();
        let told = rooms.remote_servers(room_id).await?;
        self.remember_resident(room_id, &room.join, server).await?;
        rooms.complete_state(room_id, state, auth_chain).await?;
        // The state is whole, whatever becomes of this: a restart takes it up again.
        if let Err(error) = self.tell_others(room_id, &room.join, &told).await {
            tracing::error!(%room_id, %error, "not all servers are told what was made here");
        }
        Ok(())
    }

    /// Remembers whose answer a room was joined by, until the room is complete.
    pub(super) async fn remember_resident(
        &self,
        room_id: &RoomId,
        join: &EventId,
        resident: &ServerName,
    ) -> Result<(), RoomError> {
        let row = PartialJoinRow { join: join.to_owned(), resident: resident.to_owned() };
        let mut commit = Commit::new(&());
        commit.put(&PARTIAL_JOINS, &(), &room_id.to_owned(), &row);
        self.federation().store().commit(commit).await?;
        Ok(())
    }

    /// Tells the servers that turned out to be in a room what was made here while it was partial; all but
    /// those that were told at once.
    async fn tell_others(
        &self,
        room_id: &RoomId,
        join: &EventId,
        told: &BTreeSet<OwnedServerName>,
    ) -> Result<(), RoomError> {
        let federation = self.federation();
        let rooms = federation.rooms();
        if let Some(join) = rooms.ordinal_of(room_id, join).await? {
            let servers = rooms.remote_servers(room_id).await?;
            let others = servers.difference(told).cloned().collect();
            federation.outbound().tell_latecomers(room_id, join, &others).await?;
        }
        let mut commit = Commit::new(&());
        commit.delete(&PARTIAL_JOINS, &(), &room_id.to_owned());
        federation.store().commit(commit).await?;
        Ok(())
    }

    /// Rooms that were completed by an earlier run that ended before it could tell everybody. Who was told
    /// is not known any more: to be told twice does no harm.
    async fn finish_completed(&self) -> Result<(), RoomError> {
        let federation = self.federation();
        let read = federation.store().bulk(|view| {
            let mut rows: Vec<(OwnedRoomId, PartialJoinRow)> = Vec::new();
            view.for_each(&PARTIAL_JOINS, |(), room_id, row| {
                rows.push((room_id, row));
                ControlFlow::Continue(())
            })?;
            Ok(rows)
        });
        for (room_id, row) in read.await? {
            let rooms = federation.rooms();
            if !rooms.is_partial(&room_id).await? {
                if rooms.is_resident(&room_id).await? {
                    // What is left of it is removed.
                    rooms.complete_state(&room_id, Vec::new(), Vec::new()).await?;
                }
                self.tell_others(&room_id, &row.join, &BTreeSet::new()).await?;
            }
        }
        Ok(())
    }
}

fn postpone(pauses: &mut HashMap<OwnedRoomId, Pause>, room_id: OwnedRoomId) {
    let (length, attempts) = pauses.get(&room_id).map_or((FIRST_PAUSE, 0), |last| {
        (last.length.saturating_mul(2).min(LONGEST_PAUSE), last.attempts)
    });
    let until = Instant::now() + length;
    pauses.insert(room_id, Pause { until, length, attempts: attempts.saturating_add(1) });
}
