//! The rooms of a response. They are made in chunks, between which other tasks get their turn; where many
//! rooms are new to the client, as when it begins, a second task makes some of the chunks.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
};

use ruma::RoomId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinSet, yield_now},
};
use tracing::Instrument as _;

use super::{
    connection::{Connection, Draft, Enclosed, Stage},
    pass::{Look, Shared, Told},
    view::{InView, Seat},
};
use crate::{SyncError, body::write_json, hub::RoomList};

/// Rooms that are made before other tasks get their turn: half a millisecond. Each turn may bring the
/// work to another core, with nothing of it in that core's caches.
const CHUNK: usize = 16;
/// Fewer rooms are made before another task has begun to help.
const MANY: usize = 4 * CHUNK;
/// Beyond so many bytes of rooms, those that are left come with the next response.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// What most rooms take.
const ROOM_BYTES: usize = 3 * 1024;

/// The tasks that may help others with their rooms: one for every two cores, so that the requests of those
/// who ask for little find a core.
pub(crate) struct Helpers(Arc<Semaphore>);

impl Helpers {
    pub(crate) fn new() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(cores.div_ceil(2))))
    }

    /// A place for one, unless all are taken: then rooms are made without help.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

/// Rooms as members of a JSON object, in pieces.
#[derive(Default)]
pub(crate) struct RoomBodies(Vec<Vec<u8>>);

impl RoomBodies {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes they take.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len() + 1).sum()
    }

    /// Adds rooms as they stand in a [`Batch`].
    fn push(&mut self, piece: Vec<u8>) {
        if !piece.is_empty() {
            self.0.push(piece);
        }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (number, piece) in self.0.iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            out.extend_from_slice(piece);
        }
        out.push(b'}');
    }
}

/// Rooms that were made together.
struct Batch {
    /// The place of the first one.
    first: usize,
    /// What is told of them: members of a JSON object.
    bodies: Vec<u8>,
    rooms: Vec<Made>,
}

/// A room in a batch.
struct Made {
    told: Told,
    /// Where it ends in the batch's bodies.
    end: usize,
}

/// The chunks that nobody has taken yet. They are taken in their order, so that those that were made are the
/// first ones.
#[derive(Default)]
struct Chunks {
    taken: AtomicUsize,
    /// Bytes of all that were made.
    bytes: AtomicUsize,
}

impl Chunks {
    /// The places of the next ones of so many rooms; `None` when there are no more, or bytes enough.
    fn take(&self, rooms: usize) -> Option<Range<usize>> {
        if self.bytes.load(Ordering::Relaxed) > MAX_BYTES {
            return None;
        }
        let first = self.taken.fetch_add(CHUNK, Ordering::Relaxed);
        (first < rooms).then(|| first..rooms.min(first + CHUNK))
    }
}

/// What another task needs to make rooms that are new to the client.
struct Help {
    shared: Shared,
    list: Arc<RoomList>,
    seats: Vec<Arc<Seat>>,
    chunks: Arc<Chunks>,
    _place: OwnedSemaphorePermit,
}

impl Help {
    async fn make(self) -> Result<Vec<Batch>, SyncError> {
        // Of a room that is new to the client the connection knows nothing.
        let base = Connection::without_rooms(self.shared.position);
        let look = self.shared.look(&base);
        let rooms: Option<Vec<_>> =
            self.seats.iter().map(|seat| InView::of(&self.list, seat)).collect();
        let missing = || SyncError::Internal("a room is not in the list that it is of".into());
        look.make(&rooms.ok_or_else(missing)?, &self.chunks).await
    }
}

impl Look<'_> {
    /// What is told of these rooms, all of which may have news, and whether that is all.
    pub(crate) async fn rooms(
        &self,
        rooms: &[InView<'_>],
        list: &Arc<RoomList>,
        draft: &mut Draft,
        enclosed: &mut Enclosed,
    ) -> Result<(RoomBodies, bool), SyncError> {
        let chunks = Arc::new(Chunks::default());
        // Ends with this one.
        let mut helper = JoinSet::new();
        if let Some(help) = self.help(rooms, list, &chunks) {
            helper.spawn(help.make().in_current_span());
        }
        let mut batches = self.make(rooms, &chunks).await?;
        while let Some(made) = helper.join_next().await {
            batches.extend(made.map_err(|error| SyncError::Internal(Box::new(error)))??);
        }
        batches.sort_unstable_by_key(|batch| batch.first);
        Ok(self.gather(rooms, batches, draft, enclosed))
    }

    /// What a helper needs, if there is work for one and one is free.
    fn help(
        &self,
        rooms: &[InView<'_>],
        list: &Arc<RoomList>,
        chunks: &Arc<Chunks>,
    ) -> Option<Help> {
        let is_new = |room: &InView<'_>| !self.base.rooms.contains_key(&room.topic);
        if rooms.len() < MANY || !rooms.iter().all(is_new) {
            return None;
        }
        let place = self.inner.sliding.helpers.place()?;
        Some(Help {
            shared: self.shared.clone(),
            list: Arc::clone(list),
            seats: rooms.iter().map(|room| Arc::clone(&room.seat)).collect(),
            chunks: Arc::clone(chunks),
            _place: place,
        })
    }

    /// Makes chunks of these rooms until all are taken.
    async fn make(&self, rooms: &[InView<'_>], chunks: &Chunks) -> Result<Vec<Batch>, SyncError> {
        let mut batches = Vec::new();
        while let Some(places) = chunks.take(rooms.len()) {
            if !batches.is_empty() {
                yield_now().await;
            }
            let (first, some) = (places.start, rooms.get(places).unwrap_or_default());
            let batch = self.batch(first, some).await?;
            chunks.bytes.fetch_add(batch.bodies.len(), Ordering::Relaxed);
            batches.push(batch);
        }
        Ok(batches)
    }

    async fn batch(&self, first: usize, rooms: &[InView<'_>]) -> Result<Batch, SyncError> {
        let bodies = Vec::with_capacity(rooms.len() * ROOM_BYTES);
        let mut batch = Batch { first, bodies, rooms: Vec::with_capacity(rooms.len()) };
        for room in rooms {
            if batch.bodies.len() > MAX_BYTES {
                break;
            }
            let told = self.add_room(room, &mut batch.bodies).await?;
            batch.rooms.push(Made { told, end: batch.bodies.len() });
        }
        Ok(batch)
    }

    /// Writes a room behind others, if there is something to tell of it.
    async fn add_room(&self, room: &InView<'_>, out: &mut Vec<u8>) -> Result<Told, SyncError> {
        let start = out.len();
        write_key(room.room_id, out);
        let told = match room.stage {
            Stage::Joined => Box::pin(self.joined_room(room, out)).await?,
            Stage::Asked => self.asked_room(room, out).await?,
            Stage::Gone => Box::pin(self.gone_room(room, out)).await?,
        };
        if told.written {
            self.shared.newest_own.room(self.user_id, room.row);
        } else {
            out.truncate(start);
        }
        Ok(told)
    }

    /// Takes in rooms in their order, until there are bytes enough.
    fn gather(
        &self,
        rooms: &[InView<'_>],
        batches: Vec<Batch>,
        draft: &mut Draft,
        enclosed: &mut Enclosed,
    ) -> (RoomBodies, bool) {
        let (mut bodies, mut bytes, mut count) = (RoomBodies::default(), 0, 0);
        draft.rooms.reserve(rooms.len());
        for batch in batches {
            let mut piece = batch.bodies;
            let mut end = 0;
            for (made, room) in batch.rooms.into_iter().zip(rooms.iter().skip(batch.first)) {
                if bytes + end > MAX_BYTES {
                    break;
                }
                end = made.end;
                count += 1;
                self.take_in(room, made.told, draft, enclosed);
            }
            bytes += end;
            piece.truncate(end);
            bodies.push(piece);
        }
        (bodies, count == rooms.len())
    }

    fn take_in(&self, room: &InView<'_>, told: Told, draft: &mut Draft, enclosed: &mut Enclosed) {
        draft.rooms.insert(room.topic.clone(), told.sent);
        if let Some(receipts) = told.receipts {
            draft.receipts.insert(room.topic.clone(), receipts);
        } else {
            let ids = told.events.iter().map(|event| event.pdu.id().to_owned()).collect();
            draft.shown.insert(room.topic.clone(), ids);
        }
        let members = told.members.into_iter();
        let members = members.map(|(user_id, event)| (room.room_id.to_owned(), user_id, event));
        enclosed.members.extend(members);
        if self.inner.config.delivery_receipts {
            enclosed.timelines.push((room.room_id.to_owned(), told.events));
        }
    }
}

/// Begins a member of an object that may have others.
fn write_key(room_id: &RoomId, out: &mut Vec<u8>) {
    if !out.is_empty() {
        out.push(b',');
    }
    write_json(out, room_id);
    out.push(b':');
}
