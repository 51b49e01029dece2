//! Installing a room: the writer's part, from the answer of a resident server to a room that is here.

use std::{collections::VecDeque, sync::Arc};

use hearth_storage::{Committed, Store, Ticket, run_blocking};
use ruma::{OwnedEventId, OwnedRoomId};

use super::{
    RemoteJoin,
    plan::Plan,
    rows::{LastRows, Rows, cleaning, remove_leftovers},
};
use crate::{
    Rooms,
    cache::CachedHead,
    error::RoomError,
    schema::{StoredEvent, TimelineIndex},
};

/// Commits that are built at a time, and handed over together.
const COMMITS_AT_A_TIME: usize = 8;
/// Commits of an installation that may wait for the disk.
const MAX_IN_FLIGHT: usize = 32;

/// Installs a room; only by its writer. `None` if local users are in the room already: then the join
/// is an event among others. The room's head is written in the last commit: before it is durable,
/// there is no room, or it is as it was.
pub(crate) async fn install(
    rooms: &Rooms,
    join: Arc<RemoteJoin>,
) -> Result<Option<OwnedEventId>, RoomError> {
    let planner = rooms.clone();
    let plan = run_blocking(move || Plan::make(&planner, &join, &planner.store().snapshot()));
    let Some(plan) = plan.await.map_err(ended)?? else { return Ok(None) };
    if plan.leftovers {
        clean(rooms, &plan.room_id).await?;
    }
    if plan.known {
        // Of an earlier, partial stay. What it named is not to be taken for what this join names.
        remove_leftovers(rooms.store(), &plan.room_id).await?;
    }
    let (rows, last) = Rows::split(plan);
    write(rooms.store(), rows).await?;
    finish(rooms, last).await.map(Some)
}

/// The job was cut off.
pub(super) fn ended(error: impl std::error::Error + Send + Sync + 'static) -> RoomError {
    RoomError::Internal(Box::new(error))
}

/// Removes what an installation that was cut off has left.
async fn clean(rooms: &Rooms, room_id: &OwnedRoomId) -> Result<(), RoomError> {
    loop {
        let (worker, room) = (rooms.clone(), room_id.clone());
        let commit = run_blocking(move || cleaning(&worker, &worker.store().snapshot(), &room));
        let Some(commit) = commit.await.map_err(ended)?? else { break };
        rooms.store().commit(commit).await?;
    }
    // Readers who asked about the room may have left something of it there.
    rooms.caches().clear();
    Ok(())
}

/// Writes all rows but the last, several commits at a time.
pub(super) async fn write(store: &Store, mut rows: Rows) -> Result<(), RoomError> {
    let mut in_flight: VecDeque<Ticket> = VecDeque::with_capacity(MAX_IN_FLIGHT);
    loop {
        let built = run_blocking(move || {
            let commits: Vec<_> =
                std::iter::from_fn(|| rows.next_commit()).take(COMMITS_AT_A_TIME).collect();
            (rows, commits)
        });
        let commits;
        (rows, commits) = built.await.map_err(ended)?;
        if commits.is_empty() {
            break;
        }
        for commit in commits {
            if in_flight.len() >= MAX_IN_FLIGHT
                && let Some(oldest) = in_flight.pop_front()
            {
                oldest.done().await?;
            }
            in_flight.push_back(store.submit(commit).await?);
        }
    }
    for ticket in in_flight {
        ticket.done().await?;
    }
    Ok(())
}

/// Writes the last rows, with which the room exists, and fills the caches.
async fn finish(rooms: &Rooms, mut last: LastRows) -> Result<OwnedEventId, RoomError> {
    let (commit, position) = last.commit();
    let committed: Committed = rooms.store().commit(commit).await?;
    let Plan { room_id, head, mut join, .. } = last.into_plan();
    let offset = position.pending_index().unwrap_or_default();
    join.index = Some(TimelineIndex::Live(committed.first.plus(offset)));
    let join: Arc<StoredEvent> = Arc::new(join);
    let caches = rooms.caches();
    caches.replace_event(&room_id, Arc::clone(&join));
    caches.keep_ordinal(&room_id, &join.header.event_id, join.ordinal);
    caches.keep_head(&room_id, CachedHead { as_of: committed.last, head: Arc::new(head) });
    Ok(join.header.event_id.clone())
}
