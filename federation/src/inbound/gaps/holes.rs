//! Holes: events that others refer to, or that were pushed here, and that nobody told when they were
//! asked for.
//!
//! Who pushed an event is answered and does not push it again, and behind a state that was fetched for
//! want of history that history is missing. So each such event is a row, and is asked for again, of
//! whoever pushed what led to it and of the room's other servers in turn, in growing pauses and for some
//! hours. What is not had by then is left to backfilling.
//!
//! Anybody may push events that nobody can explain. Where there are too many holes, those of servers that
//! are not known to be in the room give way first, then those of whoever has most.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hearth_rooms::RoomError;
use hearth_storage::{Commit, Keyspace, OwnerLocks, Store, postcard_record};
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

use super::{Filling, MAX_TIME, Pusher, is_open};
use crate::{Federation, FederationError, remote::Remote};

/// Holes of all rooms.
pub(crate) const HOLES: Keyspace<OwnedRoomId, OwnedEventId, HoleRow> =
    Keyspace::new("federation_holes");

/// Holes of one room; what gives way to others is left to backfilling.
const MAX_PER_ROOM: usize = 100;
/// Those of them by servers that are not known to be in the room.
const MAX_PER_ROOM_OF_STRANGERS: usize = 10;
/// Holes of all rooms.
const MAX_HOLES: usize = 10_000;
/// Those of them by servers that are not known to be in their rooms.
const MAX_HOLES_OF_STRANGERS: usize = 1_000;
/// Holes that are filled at once, each of another server's events.
const FILLED_AT_ONCE: usize = 8;
/// Those of them by servers that are not known to be in their rooms.
const FILLED_OF_STRANGERS: usize = 2;
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
    /// One writer at a time for each room's holes: whoever finds one noted finds it durable.
    owners: OwnerLocks,
    /// There is a new hole.
    noted: Notify,
}

#[derive(Debug, Default)]
struct Table {
    holes: BTreeMap<Place, Open>,
    /// Whose holes are being filled, and whether they are strangers to the room.
    filling: HashMap<OwnedServerName, bool>,
}

/// A hole in memory.
#[derive(Clone, Debug)]
struct Open {
    row: HoleRow,
    due: Instant,
    /// Was its origin not known to be in the room? Forgotten with the process.
    is_strangers: bool,
}

impl Table {
    /// The hole that gives way because there are too many, this room's among them.
    fn surplus(&self, room_id: &RoomId) -> Option<Place> {
        let all = || self.holes.iter();
        let strangers = || all().filter(|(_, hole)| hole.is_strangers);
        let in_room = |((room, _), _): &(&Place, &Open)| room == room_id;
        if all().filter(in_room).count() > MAX_PER_ROOM {
            return least_worth(all().filter(in_room));
        }
        if strangers().filter(in_room).count() > MAX_PER_ROOM_OF_STRANGERS {
            return least_worth(strangers().filter(in_room));
        }
        if strangers().count() > MAX_HOLES_OF_STRANGERS {
            return least_worth(strangers());
        }
        if self.holes.len() > MAX_HOLES { least_worth(all()) } else { None }
    }

    /// The holes that may be filled beside those that are being filled.
    fn startable(&self) -> impl Iterator<Item = (&Place, &Open)> {
        let has_place = self.filling.len() < FILLED_AT_ONCE;
        let of_strangers = self.filling.values().filter(|is_strangers| **is_strangers).count();
        self.holes.iter().filter(move |(_, hole)| {
            has_place
                && (!hole.is_strangers || of_strangers < FILLED_OF_STRANGERS)
                && !self.filling.contains_key(&hole.row.origin)
        })
    }

    /// When the next hole may be filled, if there is a place for it.
    fn next_due(&self) -> Option<Instant> {
        self.startable().map(|(_, hole)| hole.due).min()
    }

    /// Begins with the hole that is due for the longest time.
    fn begin(&mut self, now: Instant) -> Option<(Place, HoleRow)> {
        let due = self.startable().filter(|(_, hole)| hole.due <= now);
        let (place, hole) = due.min_by_key(|(_, hole)| hole.due)?;
        let (place, hole) = (place.clone(), hole.clone());
        self.filling.insert(hole.row.origin.clone(), hole.is_strangers);
        Some((place, hole.row))
    }
}

/// Strangers' holes before others', then one of whoever has most of them, then what was tried most often.
fn least_worth<'a>(holes: impl Iterator<Item = (&'a Place, &'a Open)>) -> Option<Place> {
    let holes: Vec<_> = holes.collect();
    let mut counts: HashMap<&OwnedServerName, usize> = HashMap::new();
    for (_, hole) in &holes {
        *counts.entry(&hole.row.origin).or_default() += 1;
    }
    let worst = holes.into_iter().max_by_key(|(_, hole)| {
        (hole.is_strangers, counts.get(&hole.row.origin).copied(), hole.row.tries)
    });
    worst.map(|(place, _)| place.clone())
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
        let open = |row| Open { row, due, is_strangers: false };
        let holes = rows.into_iter().map(|(place, row)| (place, open(row))).collect();
        Ok(Self(Arc::new(Inner {
            store: store.clone(),
            table: Mutex::new(Table { holes, filling: HashMap::new() }),
            owners: OwnerLocks::new(),
            noted: Notify::new(),
        })))
    }

    /// Notes events that were pushed and could not be looked at, durably.
    pub(crate) async fn note_pushed(
        &self,
        room_id: &RoomId,
        events: &[OwnedEventId],
        pusher: &Pusher,
    ) -> Result<(), RoomError> {
        let events = events.iter().map(|event_id| (event_id.clone(), Hole::Pushed));
        self.note(room_id, events, pusher, 0).await
    }

    /// Notes holes that were found after so many attempts, durably.
    pub(super) async fn note(
        &self,
        room_id: &RoomId,
        events: impl IntoIterator<Item = (OwnedEventId, Hole)>,
        pusher: &Pusher,
        tries: u32,
    ) -> Result<(), RoomError> {
        if tries >= MAX_TRIES {
            return Ok(());
        }
        let _turn = self.0.owners.lock(room_id.as_str()).await;
        let (added, surplus) = self.add(room_id, events, pusher, tries);
        let mut commit = Commit::new(&room_id.to_owned());
        for ((_, event_id), row) in &added {
            commit.put(&HOLES, &room_id.to_owned(), event_id, row);
        }
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            surplus.into_iter().partition(|(room, _)| room == room_id);
        for (room, event_id) in &here {
            commit.delete(&HOLES, room, event_id);
        }
        if !commit.is_empty()
            && let Err(error) = self.0.store.commit(commit).await
        {
            let mut table = self.0.table.lock();
            for place in added.keys() {
                table.holes.remove(place);
            }
            return Err(error.into());
        }
        self.0.noted.notify_one();
        for (room, event_id) in &elsewhere {
            let mut commit = Commit::new(room).lazy();
            commit.delete(&HOLES, room, event_id);
            self.write(commit).await;
        }
        Ok(())
    }

    /// Adds those that are new to the table; what stays of them, and what gives way.
    fn add(
        &self,
        room_id: &RoomId,
        events: impl IntoIterator<Item = (OwnedEventId, Hole)>,
        pusher: &Pusher,
        tries: u32,
    ) -> (BTreeMap<Place, HoleRow>, Vec<Place>) {
        let (mut added, mut surplus) = (BTreeMap::new(), Vec::new());
        let mut table = self.0.table.lock();
        for (event_id, hole) in events {
            let place = (room_id.to_owned(), event_id);
            if table.holes.contains_key(&place) {
                continue;
            }
            let row = HoleRow { hole, origin: pusher.server.clone(), tries };
            let due = Instant::now() + pause(tries);
            let open = Open { row: row.clone(), due, is_strangers: !pusher.is_member };
            table.holes.insert(place.clone(), open);
            added.insert(place, row);
        }
        while let Some(place) = table.surplus(room_id) {
            let (room_id, event_id) = &place;
            tracing::info!(%room_id, %event_id, "too many events are missing: one is given up");
            table.holes.remove(&place);
            if added.remove(&place).is_none() {
                surplus.push(place);
            }
        }
        (added, surplus)
    }

    fn begin(&self) -> Option<(Place, HoleRow)> {
        self.0.table.lock().begin(Instant::now())
    }

    /// Has all of them tried now; says how many there are.
    #[cfg(test)]
    pub(super) fn hurry(&self) -> usize {
        let mut table = self.0.table.lock();
        table.holes.values_mut().for_each(|hole| hole.due = Instant::now());
        self.0.noted.notify_one();
        table.holes.len()
    }

    /// The holes of a room by the event's ID.
    #[cfg(test)]
    pub(super) fn of_room(&self, room_id: &RoomId) -> Vec<OwnedEventId> {
        let table = self.0.table.lock();
        let places = table.holes.keys().filter(|(room, _)| room == room_id);
        places.map(|(_, event_id)| event_id.clone()).collect()
    }

    /// A hole is filled, or given up.
    async fn forget(&self, (room_id, event_id): &Place) {
        let _turn = self.0.owners.lock(room_id.as_str()).await;
        self.0.table.lock().holes.remove(&(room_id.clone(), event_id.clone()));
        let mut commit = Commit::new(room_id).lazy();
        commit.delete(&HOLES, room_id, event_id);
        self.write(commit).await;
    }

    /// A hole stays open after another attempt.
    async fn put_off(&self, place: &Place, row: HoleRow) {
        let (room_id, event_id) = place;
        let row = HoleRow { tries: row.tries + 1, ..row };
        if row.tries >= MAX_TRIES {
            tracing::info!(%room_id, %event_id, "nobody tells an event: it is left to backfilling");
            return self.forget(place).await;
        }
        let _turn = self.0.owners.lock(room_id.as_str()).await;
        let due = Instant::now() + pause(row.tries);
        let stays = self.0.table.lock().holes.get_mut(place).map(|hole| {
            hole.due = due;
            hole.row = row.clone();
        });
        // It may have given way to others meanwhile.
        if stays.is_some() {
            let mut commit = Commit::new(room_id).lazy();
            commit.put(&HOLES, room_id, event_id, &row);
            self.write(commit).await;
        }
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

/// Fills holes, some beside each other, for as long as the server runs.
pub(crate) async fn run(federation: Federation, remote: Remote) {
    let holes = federation.holes().clone();
    let mut filling = FuturesUnordered::new();
    loop {
        while let Some((place, row)) = holes.begin() {
            filling.push(attempt(&federation, &remote, place, row));
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
            Some(()) = filling.next() => {}
            () = holes.0.noted.notified() => {}
            () = wait => {}
        }
    }
}

/// One attempt, and what becomes of the hole.
async fn attempt(federation: &Federation, remote: &Remote, place: Place, row: HoleRow) {
    let holes = federation.holes();
    let origin = row.origin.clone();
    match fill(federation, remote, &place, &row).await {
        Ok(true) => holes.forget(&place).await,
        Ok(false) => holes.put_off(&place, row).await,
        Err(error) => {
            let (room_id, event_id) = &place;
            tracing::debug!(%room_id, %event_id, %error, "a hole cannot be filled now");
            holes.put_off(&place, row).await;
        }
    }
    holes.0.table.lock().filling.remove(&origin);
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
    let deadline = Instant::now() + MAX_TIME;
    if row.hole == Hole::Behind {
        let fetching = remote.fetch_history(&server, room_id, event_id);
        return timeout_at(deadline, fetching).await.unwrap_or(Ok(false));
    }
    let pusher = Pusher::of(federation, room_id, &server).await?;
    let turn = timeout_at(deadline, federation.turns().take(&pusher, room_id)).await;
    let turn = turn.ok().flatten().ok_or(RoomError::Busy)?;
    let mut filling = Filling::new(federation, &turn, version, row.tries + 1);
    let filled = timeout_at(deadline, filling.fill(event_id)).await;
    // What was found before it failed, or took too long, is missing all the same.
    filling.note_holes().await?;
    filled.unwrap_or(Ok(false))
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
