//! When a room last changed, for its place in the order and for its `bump_stamp`. Remembered for all its
//! members together, and read anew only when the room has changed.

use hearth_rooms::{
    read::{Stretch, TimelineToken},
    schema::{EventOrdinal, TimelineIndex},
};
use hearth_storage::{Direction, Topic};
use hearth_types::StreamPosition;
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, RoomId};

use crate::{SyncError, service::Inner};

/// Rooms whose last events are remembered.
const MAX_ROOMS: usize = 200_000;
/// Events that are looked at for one that bumps the room: a room may have seen nothing but joins and
/// reactions for long.
const MAX_SCANNED: usize = 1_000;
/// Events that are looked at first: most are messages.
const FIRST_PAGE: usize = 4;
/// Events that are looked at together after that.
const PAGE: usize = 100;

/// Events that move a room up in a client's list (MSC4186, `bump_stamp`).
const BUMPING: [&str; 7] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "m.beacon_info",
];
/// The same by the names that clients use before the specification has them.
const BUMPING_UNSTABLE: [&str; 2] =
    ["org.matrix.msc3381.poll.start", "org.matrix.msc3672.beacon_info"];

/// What is remembered.
pub(crate) struct Activity {
    last: Cache<OwnedRoomId, Last>,
    bumps: Cache<OwnedRoomId, Bump>,
}

#[derive(Clone, Copy)]
struct Last {
    /// The room had not changed after its last event was read when this was published.
    as_of: StreamPosition,
    event: StreamPosition,
}

#[derive(Clone, Copy)]
struct Bump {
    /// Everything up to here was looked at.
    until: StreamPosition,
    event: Option<StreamPosition>,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { last: Cache::new(MAX_ROOMS), bumps: Cache::new(MAX_ROOMS) }
    }
}

impl Inner {
    /// The position of a room's last event, which orders rooms (MSC4186, "Activity ordering").
    pub(crate) async fn last_event(
        &self,
        room_id: &RoomId,
        topic: &Topic,
    ) -> Result<StreamPosition, SyncError> {
        let cache = &self.sliding.activity.last;
        if let Some(last) = cache.get(room_id)
            && !self.notifier().changed_since(topic, last.as_of)
        {
            return Ok(last.event);
        }
        let as_of = self.notifier().published();
        let all = Stretch { after: TimelineToken::START, until: TimelineToken::END };
        let rows = self.rooms.timeline_page(room_id, all, Direction::Backward, 1).await?;
        let event = rows.first().map_or(StreamPosition::ZERO, |(index, _)| position(*index));
        cache.insert(room_id.to_owned(), Last { as_of, event });
        Ok(event)
    }

    /// The position of a room's last event that bumps it. If there is none among the last ones, it is older
    /// than the oldest of those, whose position is returned then; `None` if the room has no events.
    pub(crate) async fn last_bump(
        &self,
        room_id: &RoomId,
        topic: &Topic,
    ) -> Result<Option<StreamPosition>, SyncError> {
        let last = self.last_event(room_id, topic).await?;
        let cache = &self.sliding.activity.bumps;
        let known = cache.get(room_id);
        if let Some(known) = known.filter(|known| known.until == last) {
            return Ok(known.event);
        }
        let event = self.find_bump(room_id, last, known).await?;
        cache.insert(room_id.to_owned(), Bump { until: last, event });
        Ok(event)
    }

    async fn find_bump(
        &self,
        room_id: &RoomId,
        last: StreamPosition,
        known: Option<Bump>,
    ) -> Result<Option<StreamPosition>, SyncError> {
        let after = known.map_or(TimelineToken::START, |k| TimelineToken::at_position(k.until));
        let mut stretch = Stretch { after, until: TimelineToken::at_position(last) };
        let (mut scanned, mut size, mut oldest) = (0, FIRST_PAGE, None);
        while scanned < MAX_SCANNED {
            let rows =
                self.rooms.timeline_page(room_id, stretch, Direction::Backward, size).await?;
            let ordinals: Vec<EventOrdinal> = rows.iter().map(|(_, row)| row.ordinal).collect();
            let events = self.rooms.events(room_id, &ordinals).await?;
            let bumping = rows.iter().zip(events).find(|(_, event)| {
                let kind = event.pdu.kind().to_string();
                BUMPING.contains(&&*kind) || BUMPING_UNSTABLE.contains(&&*kind)
            });
            if let Some(((index, _), _)) = bumping {
                return Ok(Some(position(*index)));
            }
            if let Some((index, _)) = rows.last() {
                oldest = Some(position(*index));
                stretch.until = TimelineToken::before(*index);
            }
            if rows.len() < size {
                break;
            }
            scanned += rows.len();
            size = PAGE;
        }
        // What bumped the room before still does.
        Ok(known.and_then(|known| known.event).or(oldest))
    }
}

fn position(index: TimelineIndex) -> StreamPosition {
    match index {
        TimelineIndex::Live(position) => position,
        TimelineIndex::History { before, .. } => before.previous(),
    }
}
