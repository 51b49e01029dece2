//! Rooms that were joined with part of their state: the rest is fetched behind the join (SS "Joining
//! Rooms", `members_omitted`), also after a restart.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hearth_rooms::{PartialRoom, RoomError};
use ruma::{OwnedRoomId, RoomVersionId, ServerName};
use tokio::time::{Instant, timeout};

use super::{
    Remote,
    asking::{Refusals, candidates},
};

/// Rooms that are completed at a time: each holds the state of a large room in memory.
const CONCURRENCY: usize = 2;
/// The first pause after a room could not be completed; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// How often the list is looked at without a reason.
const IDLE: Duration = Duration::from_mins(10);

/// When a room is tried again, and how long the pause before that was.
struct Pause {
    until: Instant,
    length: Duration,
}

impl Remote {
    /// Completes rooms, those of an earlier run first, until the server stops.
    pub(crate) fn resume_partial_joins(&self) {
        let remote = self.clone();
        self.federation().spawn(async move { remote.complete_rooms().await });
    }

    async fn complete_rooms(&self) {
        let mut pauses: HashMap<OwnedRoomId, Pause> = HashMap::new();
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
                    attempts.push(self.attempt(room));
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
    async fn attempt(&self, room: PartialRoom) -> (OwnedRoomId, bool) {
        let completed = self.complete(&room).await;
        let PartialRoom { room_id, .. } = room;
        if let Err(error) = &completed {
            tracing::info!(%room_id, %error, "a room's state is still partial");
        }
        (room_id, completed.is_ok())
    }

    async fn complete(&self, room: &PartialRoom) -> Result<(), RoomError> {
        let federation = self.federation();
        let rooms = federation.rooms();
        let version = rooms.version(&room.room_id).await?;
        let others = rooms.remote_servers(&room.room_id).await?;
        let named = room.servers.iter().chain(others.iter()).cloned();
        let servers = candidates(federation.identity().server_name(), named);
        let mut refusals = Refusals::default();
        for server in servers {
            match self.complete_by(&server, &version, room).await {
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
    ) -> Result<(), RoomError> {
        let room_id = &room.room_id;
        let (state, auth_chain) =
            self.whole_state(server, version, room_id, room.join.clone()).await?;
        self.federation().rooms().complete_state(room_id, state, auth_chain).await
    }
}

fn postpone(pauses: &mut HashMap<OwnedRoomId, Pause>, room_id: OwnedRoomId) {
    let last = pauses.get(&room_id).map(|pause| pause.length);
    let length = last.map_or(FIRST_PAUSE, |last| last.saturating_mul(2).min(LONGEST_PAUSE));
    pauses.insert(room_id, Pause { until: Instant::now() + length, length });
}
