//! Holes: events that others refer to, or that were pushed here, and that nobody told when they were
//! asked for.
//!
//! Who pushed an event is answered and does not push it again, and behind a state that was fetched for
//! want of history that history is missing. So each such event is a row, and is asked for again, of
//! whoever pushed what led to it and of the room's other servers in turn, in growing pauses and for some
//! hours. What is not had by then is left to backfilling.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hearth_rooms::RoomError;
use hearth_storage::{Commit, Keyspace, Store, postcard_record};
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::{Filling, MAX_TIME, is_open};
use crate::{Federation, FederationError, remote::Remote};

/// Holes of all rooms.
pub(crate) const HOLES: Keyspace<OwnedRoomId, OwnedEventId, HoleRow> =
    Keyspace::new("federation_holes");

/// Holes of one room; further ones are left to backfilling.
const MAX_PER_ROOM: usize = 100;
/// Holes of all rooms.
const MAX_HOLES: usize = 10_000;
/// Attempts for one hole, with all holes that were found by filling it: about four hours.
const MAX_TRIES: u32 = 12;
/// The pause before the first attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_hours(1);

/// Why an event is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Hole {
    /// It was pushed, but not what it refers to: it is news, once it can be judged.
    Pushed,
    /// It comes before an event whose state was told: it is history.
    Behind,
}

/// A hole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HoleRow {
    hole: Hole,
    /// Who pushed what led to it.
    origin: OwnedServerName,
    /// Attempts so far.
    tries: u32,
}
postcard_record!(HoleRow, version = 1);

/// Where a hole is.
type Place = (OwnedRoomId, OwnedEventId);

/// All holes, and when they are due. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Holes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    table: Mutex<Table>,
    /// There is a new hole.
    noted: Notify,
}

#[derive(Debug, Default)]
struct Table {
    holes: BTreeMap<Place, (HoleRow, Instant)>,
}

impl Table {
    fn has_room_for(&self, room_id: &RoomId) -> bool {
        let of_room = self.holes.keys().filter(|(room, _)| room == room_id);
        self.holes.len() < MAX_HOLES && of_room.count() < MAX_PER_ROOM
    }

    fn next_due(&self) -> Option<Instant> {
        self.holes.values().map(|(_, due)| *due).min()
    }

    fn due(&self, now: Instant) -> Option<(Place, HoleRow)> {
        let mut holes = self.holes.iter();
        let (place, (row, _)) = holes.find(|(_, (_, due))| *due <= now)?;
        Some((place.clone(), row.clone()))
    }
}

impl Holes {
    /// Reads the rows; all are due after the first pause.
    pub(crate) async fn open(store: &Store) -> Result<Self, FederationError> {
        let rows = store
            .bulk(|view| {
                let mut rows = Vec::new();
                view.for_each(&HOLES, |room_id, event_id, row| {
                    rows.push(((room_id, event_id), row));
                    std::ops::ControlFlow::Continue(())
                })?;
                Ok(rows)
            })
            .await?;
        let due = Instant::now() + FIRST_PAUSE;
        let holes = rows.into_iter().map(|(place, row)| (place, (row, due))).collect();
        let table = Mutex::new(Table { holes });
        Ok(Self(Arc::new(Inner { store: store.clone(), table, noted: Notify::new() })))
    }

    /// Notes events that were pushed and could not be looked at, durably.
    pub(crate) async fn note_pushed(
        &self,
        room_id: &RoomId,
        events: &[OwnedEventId],
        origin: &ServerName,
    ) -> Result<(), RoomError> {
        let events = events.iter().map(|event_id| (event_id.clone(), Hole::Pushed));
        self.note(room_id, events, origin, 0).await
    }

    /// Notes holes that were found after so many attempts, durably.
    pub(super) async fn note(
        &self,
        room_id: &RoomId,
        events: impl IntoIterator<Item = (OwnedEventId, Hole)>,
        origin: &ServerName,
        tries: u32,
    ) -> Result<(), RoomError> {
        let room_id = room_id.to_owned();
        let mut commit = Commit::new(&room_id);
        {
            let mut table = self.0.table.lock();
            for (event_id, hole) in events {
                let place = (room_id.clone(), event_id);
                if tries >= MAX_TRIES
                    || table.holes.contains_key(&place)
                    || !table.has_room_for(&room_id)
                {
                    continue;
                }
                let row = HoleRow { hole, origin: origin.to_owned(), tries };
                commit.put(&HOLES, &room_id, &place.1, &row);
                table.holes.insert(place, (row, Instant::now() + pause(tries)));
            }
        }
        if commit.is_empty() {
            return Ok(());
        }
        self.0.noted.notify_one();
        self.0.store.commit(commit).await?;
        Ok(())
    }

    /// Has all of them tried now; says how many there are.
    #[cfg(test)]
    pub(super) fn hurry(&self) -> usize {
        let mut table = self.0.table.lock();
        table.holes.values_mut().for_each(|(_, due)| *due = Instant::now());
        self.0.noted.notify_one();
        table.holes.len()
    }

    /// A hole is filled, or given up.
    async fn forget(&self, (room_id, event_id): &Place) {
        self.0.table.lock().holes.remove(&(room_id.clone(), event_id.clone()));
        let mut commit = Commit::new(room_id).lazy();
        commit.delete(&HOLES, room_id, event_id);
        self.write(commit).await;
    }

    /// A hole stays open after another attempt.
    async fn put_off(&self, place: &Place, row: HoleRow) {
        let row = HoleRow { tries: row.tries + 1, ..row };
        if row.tries >= MAX_TRIES {
            let (room_id, event_id) = place;
            tracing::info!(%room_id, %event_id, "nobody tells an event: it is left to backfilling");
            return self.forget(place).await;
        }
        let (room_id, event_id) = place;
        let mut commit = Commit::new(room_id).lazy();
        commit.put(&HOLES, room_id, event_id, &row);
        let due = Instant::now() + pause(row.tries);
        self.0.table.lock().holes.insert(place.clone(), (row, due));
        self.write(commit).await;
    }

    async fn write(&self, commit: Commit) {
        if let Err(error) = self.0.store.commit(commit).await {
            // At worst an attempt is made again after a restart.
            tracing::warn!(%error, "what became of a hole in history could not be written");
        }
    }
}

/// The pause after so many attempts.
fn pause(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << tries.min(20)).min(MAX_PAUSE)
}

/// Fills holes, one after the other, for as long as the server runs.
pub(crate) async fn run(federation: Federation, remote: Remote) {
    let holes = federation.holes().clone();
    loop {
        let due = holes.0.table.lock().due(Instant::now());
        if let Some((place, row)) = due {
            let filled = timeout(MAX_TIME, fill(&federation, &remote, &place, &row)).await;
            match filled {
                Ok(Ok(true)) => holes.forget(&place).await,
                Ok(Ok(false)) | Err(_) => holes.put_off(&place, row).await,
                Ok(Err(error)) => {
                    let (room_id, event_id) = &place;
                    tracing::debug!(%room_id, %event_id, %error, "a hole cannot be filled now");
                    holes.put_off(&place, row).await;
                }
            }
            continue;
        }
        let next = holes.0.table.lock().next_due();
        let wait = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = holes.0.noted.notified() => {}
            () = wait => {}
        }
    }
}

/// One attempt. Whether there is nothing left to try.
async fn fill(
    federation: &Federation,
    remote: &Remote,
    (room_id, event_id): &Place,
    row: &HoleRow,
) -> Result<bool, RoomError> {
    let version = match federation.rooms().version(room_id).await {
        Err(RoomError::UnknownRoom) => return Ok(true),
        version => version?,
    };
    let Some(server) = whom_to_ask(federation, room_id, row).await? else { return Ok(false) };
    if row.hole == Hole::Behind {
        return remote.fetch_history(&server, room_id, event_id).await;
    }
    let turn = federation.turns().take(&server, room_id).await.ok_or(RoomError::Busy)?;
    let mut filling = Filling::new(federation, &turn, version, row.tries + 1);
    let filled = filling.fill(event_id).await;
    filling.note_holes().await?;
    filled
}

/// Who pushed what led to the hole, then the room's other servers in turn.
async fn whom_to_ask(
    federation: &Federation,
    room_id: &RoomId,
    row: &HoleRow,
) -> Result<Option<OwnedServerName>, RoomError> {
    let others = federation.rooms().remote_servers(room_id).await?;
    let mut servers = vec![row.origin.clone()];
    servers.extend(others.iter().filter(|server| **server != row.origin).cloned());
    let place = row.tries as usize % servers.len();
    Ok(servers.into_iter().nth(place))
}

impl Filling<'_> {
    /// Asks for one event and receives it, with what can be had of the gap before it. Whether there is
    /// nothing left to try.
    async fn fill(&mut self, event_id: &EventId) -> Result<bool, RoomError> {
        if self.has_history(event_id).await? {
            return Ok(true);
        }
        let told = self.ask_singly(&[event_id.to_owned()].into()).await;
        let mut checked = self.check(told).await;
        checked.retain(|event| event.pdu().id() == event_id);
        let Some(event) = checked.pop() else { return Ok(false) };
        let verdict = self.receive(&event).await?;
        Ok(!is_open(&self.settle(event, verdict).await?))
    }
}
