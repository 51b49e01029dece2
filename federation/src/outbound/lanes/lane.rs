//! One destination: what waits for it, and how far it has come.

use std::collections::VecDeque;

use hearth_rooms::schema::EventOrdinal;
use hearth_types::StreamPosition;
use ruma::{OwnedRoomId, OwnedTransactionId};
use tokio::time::Instant;

use super::{
    super::{
        edus::{EduQueue, TakenEdus},
        lists::users_among,
        messages::{MESSAGES_AT_ONCE, Messages},
    },
    MAX_PDUS,
};

/// An event on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::outbound) struct Item {
    /// Its place in the log.
    pub(in crate::outbound) position: StreamPosition,
    /// Its room.
    pub(in crate::outbound) room_id: OwnedRoomId,
    /// Its number in the room.
    pub(in crate::outbound) ordinal: EventOrdinal,
}

/// A long absence being made good: changed device lists and each shared room's newest events instead of
/// the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::outbound) struct Absence {
    /// From here on the log is read again.
    pub(in crate::outbound) until: StreamPosition,
    /// Lists that changed up to here were looked at; none are left if there is no place.
    pub(in crate::outbound) lists_after: Option<StreamPosition>,
    /// The last room that was looked at.
    pub(in crate::outbound) after_room: Option<OwnedRoomId>,
}

/// What goes into one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::outbound) struct Batch {
    /// The transaction's ID, if it was offered before and may have arrived.
    pub(in crate::outbound) offered_as: Option<OwnedTransactionId>,
    pub(in crate::outbound) items: Vec<Item>,
    pub(in crate::outbound) edus: TakenEdus,
    pub(in crate::outbound) messages: Messages,
}

impl Batch {
    /// Could a part of it be taken when the whole is not? What is only to be told now is not offered a
    /// second time.
    pub(in crate::outbound) fn may_be_divided(&self) -> bool {
        let alone = self.items.len() + self.go_alone();
        let others = usize::from(self.edus.has_what_is_told_once());
        alone > 0 && alone + others > 1
    }

    /// In how many further transactions the changed lists and messages to devices go alone.
    pub(super) fn go_alone(&self) -> usize {
        users_among(&self.edus.lists) + self.messages.chosen.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.edus.is_empty() && self.messages.chosen.is_empty()
    }

    /// The first place in the log.
    pub(super) fn first(&self) -> Option<StreamPosition> {
        let item = self.items.first().map(|item| item.position);
        item.into_iter().chain(self.edus.logged_from()).min()
    }
}

/// What is to be done for a destination.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::outbound) enum Task {
    /// These go into a transaction.
    Send(Batch),
    /// The log, or the rooms of an absence, must be read after this position.
    Read(StreamPosition, Option<Absence>),
}

/// What waits for one destination.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) queue: VecDeque<Item>,
    pub(super) edus: EduQueue,
    /// Messages to devices may wait in the store.
    pub(super) messages: bool,
    /// The same of those that were taken.
    pub(super) messages_taken: bool,
    /// Taken for a transaction: the first place in the log and how many events.
    pub(super) in_flight: Option<(StreamPosition, usize)>,
    /// A transaction that may have arrived although no answer came: it is offered again as it was.
    pub(super) again: Option<Batch>,
    /// What comes after this position must be read from the log.
    pub(super) behind: Option<StreamPosition>,
    pub(super) absence: Option<Absence>,
    /// The cursor as persisted.
    pub(super) row: Option<StreamPosition>,
    /// A task works on it.
    pub(super) busy: bool,
    /// When it is to be worked on again.
    pub(super) rests_until: Option<Instant>,
    /// Transactions in a row that were answered with an error.
    pub(super) refusals: u32,
    /// The last such error.
    pub(super) last_refusal: Option<String>,
    /// So many events go in transactions of their own, to find one that is refused.
    pub(super) singly: usize,
    /// The same of changed lists and messages to devices.
    pub(super) alone: usize,
}

impl Lane {
    pub(super) fn has_work(&self) -> bool {
        self.again.is_some()
            || !self.queue.is_empty()
            || !self.edus.is_empty()
            || self.messages
            || self.behind.is_some()
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.busy && !self.has_work()
    }

    /// Everything up to here was delivered.
    pub(super) fn delivered(&self, routed: StreamPosition) -> StreamPosition {
        let taken = self.in_flight.map(|(first, _)| first);
        let again = self.again.as_ref().and_then(Batch::first);
        let first = [taken, again, self.first_waiting()].into_iter().flatten();
        first.map(StreamPosition::previous).chain(self.behind).min().unwrap_or(routed)
    }

    /// The first place in the log of what waits here and was not taken.
    pub(super) fn first_waiting(&self) -> Option<StreamPosition> {
        let queued = self.queue.front().map(|item| item.position);
        queued.into_iter().chain(self.edus.logged_from()).min()
    }

    /// Events that are in memory.
    pub(super) fn held(&self) -> u64 {
        let taken = self.in_flight.map_or(0, |(_, count)| count);
        let again = self.again.as_ref().map_or(0, |batch| batch.items.len());
        (self.queue.len() + taken + again) as u64
    }

    /// Forgets what waits: it will be read again. What is not in the log is out of date by then, but
    /// for presence.
    pub(super) fn fall_behind(&mut self, routed: StreamPosition) {
        let taken = self.in_flight.map(|(first, _)| first);
        if let Some(first) = taken.into_iter().chain(self.first_waiting()).min() {
            self.behind = Some(first.previous());
        } else if self.again.is_some() {
            // What comes now does not gather behind it.
            self.behind.get_or_insert(routed);
        }
        self.queue.clear();
        self.edus.forget_while_away();
        self.messages |= std::mem::take(&mut self.messages_taken);
        self.in_flight = None;
        self.absence = None;
    }

    /// What goes into the next transaction. One that is looked for, because something among others was
    /// refused, does not hide among them.
    pub(super) fn take(&mut self) -> Batch {
        let mut batch = Batch::default();
        if self.singly > 0 {
            batch.items.extend(self.queue.pop_front());
            return batch;
        }
        if let Some(left) = self.alone.checked_sub(1) {
            self.alone = left;
            batch.edus = self.edus.take_one_list();
            batch.messages.wanted = usize::from(batch.edus.is_empty());
        } else {
            let count = MAX_PDUS.min(self.queue.len());
            batch.items = self.queue.drain(..count).collect();
            batch.edus = self.edus.take();
            batch.messages.wanted = MESSAGES_AT_ONCE;
        }
        if batch.messages.wanted > 0 {
            self.messages_taken = std::mem::take(&mut self.messages);
        }
        if !self.messages_taken {
            batch.messages.wanted = 0;
        }
        batch
    }

    pub(super) fn start(&mut self) {
        self.busy = true;
        self.rests_until = None;
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        let waits = !self.queue.is_empty() || self.messages || self.behind.is_some();
        let has_work = waits || self.again.is_some() || self.edus.is_due(now);
        !self.busy && has_work && self.rests_until.is_none_or(|until| until <= now)
    }
}
