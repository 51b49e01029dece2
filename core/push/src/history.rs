//! What a user was notified of, from the timelines of their rooms: newest first, over all rooms in the order in
//! which it happened. No row is kept for it.

use std::{
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use hearth_rooms::{
    read::{Stretch, TimelineToken},
    schema::{EventOrdinal, Membership, StoredEvent, TimelineIndex, UserRoomRow},
};
use hearth_storage::{Direction, Topic};
use hearth_sync::{Judge, is_read};
use hearth_types::{Pdu, StreamPosition};
use ruma::{OwnedRoomId, UserId, push::Action};

use crate::{
    PushError,
    lane::{Item, What},
    service::Inner,
};

/// Events that one look back judges.
const MAX_JUDGED: usize = 2_000;
/// Rows of one room's timeline that are read at once.
const PAGE: usize = 20;

/// Something that a user was notified of.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) position: StreamPosition,
    pub(crate) room_id: OwnedRoomId,
    pub(crate) row: UserRoomRow,
    pub(crate) source: Source,
    pub(crate) actions: Vec<Action>,
}

impl From<Found> for Item {
    fn from(found: Found) -> Self {
        let (room_id, actions) = (found.room_id, found.actions.into());
        let what = match found.source {
            Source::Event(event) => What::Event { room_id, ordinal: event.ordinal, actions },
            Source::Invitation(_) => What::Invitation { room_id, actions },
        };
        Self { position: found.position, what }
    }
}

/// Where the event is.
#[derive(Debug)]
pub(crate) enum Source {
    /// In the room.
    Event(Arc<StoredEvent>),
    /// An invitation to a room that this server is not in.
    Invitation(Box<Pdu>),
}

impl Source {
    pub(crate) fn pdu(&self) -> &Pdu {
        match self {
            Self::Event(event) => &event.pdu,
            Self::Invitation(pdu) => pdu,
        }
    }
}

/// What one look back found.
#[derive(Debug)]
pub(crate) struct LookedBack {
    /// Newest first.
    pub(crate) found: Vec<Found>,
    /// Before this nothing was looked at; `None`: there is no more.
    pub(crate) rest: Option<StreamPosition>,
}

/// One room's timeline, read backwards.
struct RoomScan {
    room_id: OwnedRoomId,
    row: UserRoomRow,
    judge: Option<Judge>,
    buffer: VecDeque<(StreamPosition, EventOrdinal)>,
    stretch: Stretch,
    is_exhausted: bool,
}

impl Inner {
    /// What a pusher missed between two positions and its user has not read, newest first.
    pub(crate) async fn missed(
        &self,
        user_id: &UserId,
        after: StreamPosition,
        until: StreamPosition,
        limit: usize,
    ) -> Result<Vec<Found>, PushError> {
        let looked = self.look_back(user_id, (after, until), limit, false).await?;
        let mut unread = Vec::new();
        for found in looked.found {
            let is_pushed = !self.parts.sync.is_large(&found.room_id).await?
                || found.actions.iter().any(Action::is_highlight);
            if is_pushed && !self.was_read(user_id, &found).await? {
                unread.push(found);
            }
        }
        Ok(unread)
    }

    /// Has the user read it?
    pub(crate) async fn was_read(
        &self,
        user_id: &UserId,
        found: &Found,
    ) -> Result<bool, PushError> {
        let Source::Event(event) = &found.source else { return Ok(false) };
        if found.row.details.membership != Membership::Join {
            return Ok(false);
        }
        let marks = self.parts.sync.read_marks(user_id, &found.room_id, &found.row).await?;
        Ok(is_read(&marks, event, found.position))
    }

    /// What notified a user after one position, up to another.
    pub(crate) async fn look_back(
        &self,
        user_id: &UserId,
        (after, until): (StreamPosition, StreamPosition),
        limit: usize,
        only_highlights: bool,
    ) -> Result<LookedBack, PushError> {
        let mut scans = self.scans(user_id, after, until).await?;
        let mut heap = BinaryHeap::new();
        for (place, scan) in scans.iter_mut().enumerate() {
            self.fill(scan).await?;
            heap.extend(scan.buffer.front().map(|(position, _)| (*position, place)));
        }
        let mut looked = LookedBack { found: Vec::new(), rest: None };
        let mut judged = 0;
        while let Some((position, place)) = heap.pop() {
            if looked.found.len() >= limit || judged >= MAX_JUDGED {
                looked.rest = Some(position.next());
                break;
            }
            judged += 1;
            let Some(scan) = scans.get_mut(place) else { continue };
            let Some((_, ordinal)) = scan.buffer.pop_front() else { continue };
            if let Some(found) = self.judge(user_id, scan, position, ordinal).await?
                && (!only_highlights || found.actions.iter().any(Action::is_highlight))
            {
                looked.found.push(found);
            }
            self.fill(scan).await?;
            heap.extend(scan.buffer.front().map(|(position, _)| (*position, place)));
        }
        Ok(looked)
    }

    /// The rooms in which something happened meanwhile.
    async fn scans(
        &self,
        user_id: &UserId,
        after: StreamPosition,
        until: StreamPosition,
    ) -> Result<Vec<RoomScan>, PushError> {
        let notifier = self.parts.store.notifier();
        let mut scans = Vec::new();
        for (room_id, row) in self.parts.rooms.user_rooms(user_id).await? {
            let from = after.max(row.joined_at);
            let mut scan = RoomScan {
                stretch: Stretch {
                    after: TimelineToken::at_position(from),
                    until: TimelineToken::at_position(until),
                },
                room_id,
                judge: None,
                buffer: VecDeque::new(),
                is_exhausted: false,
                row,
            };
            let position = scan.row.position;
            let is_meanwhile = match scan.row.details.membership {
                Membership::Join => {
                    notifier.changed_since(&Topic::new(scan.room_id.as_str()), after)
                }
                Membership::Invite => after < position && position <= until,
                _ => false,
            };
            if !is_meanwhile {
                continue;
            }
            if scan.row.details.membership == Membership::Invite {
                scan.buffer.push_back((position, scan.row.details.event));
                scan.is_exhausted = true;
            }
            scans.push(scan);
        }
        Ok(scans)
    }

    async fn fill(&self, scan: &mut RoomScan) -> Result<(), PushError> {
        if scan.is_exhausted || !scan.buffer.is_empty() {
            return Ok(());
        }
        let rows = self
            .parts
            .rooms
            .timeline_page(&scan.room_id, scan.stretch, Direction::Backward, PAGE)
            .await?;
        scan.is_exhausted = rows.len() < PAGE;
        for (index, row) in rows {
            scan.stretch.until = TimelineToken::before(index);
            match index {
                TimelineIndex::Live(position) => scan.buffer.push_back((position, row.ordinal)),
                // History from before the user came.
                TimelineIndex::History { .. } => scan.is_exhausted = true,
            }
        }
        Ok(())
    }

    async fn judge(
        &self,
        user_id: &UserId,
        scan: &mut RoomScan,
        position: StreamPosition,
        ordinal: EventOrdinal,
    ) -> Result<Option<Found>, PushError> {
        let (rooms, room_id) = (&self.parts.rooms, &scan.room_id);
        let is_invited = scan.row.details.membership == Membership::Invite;
        if is_invited && self.parts.users.blocks_invites(user_id).await? {
            return Ok(None);
        }
        let source = if is_invited && scan.row.details.is_out_of_band() {
            let Some(kept) = rooms.out_of_band(room_id, user_id).await? else { return Ok(None) };
            Source::Invitation(Box::new(kept.event.into_pdu()))
        } else {
            let event = rooms.event(room_id, ordinal).await?;
            if event.header.redacted_by.is_some() {
                return Ok(None);
            }
            Source::Event(event)
        };
        let judge = match &mut scan.judge {
            Some(judge) => judge,
            none => none.insert(self.parts.sync.judge(user_id, room_id, &scan.row).await?),
        };
        let actions = judge.actions(source.pdu()).await.map(<[Action]>::to_vec);
        Ok(actions.map(|actions| Found {
            position,
            room_id: room_id.clone(),
            row: scan.row.clone(),
            source,
            actions,
        }))
    }
}
