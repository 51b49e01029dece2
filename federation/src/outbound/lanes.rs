//! What waits for each destination, in memory: plain state behind one lock, without any waiting.
//!
//! A lane knows everything that its destination is to be told from its first waiting event up to
//! [`Lanes::routed`], or it is *behind*: the log must be read again from a place on. Lanes hold places
//! of events, never events. Messages to devices wait in the store. Destinations that find no place are
//! remembered in `left_out`.

mod left_out;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};

use hearth_rooms::schema::EventOrdinal;
use hearth_types::StreamPosition;
use ruma::{OwnedRoomId, OwnedServerName, OwnedTransactionId, RoomId, ServerName, UserId};
use tokio::time::Instant;

use self::left_out::LeftOut;
use super::{
    catch_up::Missed,
    edus::{EduQueue, PublicReceipt, TakenEdus},
    lists::{ListChange, users_among},
    messages::{MESSAGES_AT_ONCE, Messages},
};

/// Events in one transaction (SS "Transactions").
pub(super) const MAX_PDUS: usize = 50;
/// Events that wait for one destination in memory; further ones are read from the log again.
/// (Tests fill it in less time.)
pub(super) const MAX_WAITING: usize = if cfg!(test) { 100 } else { 1_000 };
/// Destinations at the same time: more than any server of the public federation has. Each is a server
/// with members in a room, or was until lately. (Tests fill it in less time.)
const MAX_LANES: usize = if cfg!(test) { 20 } else { 200_000 };
/// When there are so many, none is made for messages to devices alone: anybody may send those to servers
/// that do not exist. They wait in the store until there are fewer.
const MAX_LANES_FOR_MESSAGES: usize = MAX_LANES / 2;
/// Transactions that are held to be offered again. Of further destinations that do not answer, what was
/// taken is read from the log again, and goes under another ID.
const MAX_AGAIN: usize = 2_000;
/// A destination that lags by more positions gets a cursor of its own instead of holding back the one
/// that all others share.
const MAX_SHARED_LAG: u64 = 10_000;

/// An event on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Its place in the log.
    pub(super) position: StreamPosition,
    /// Its room.
    pub(super) room_id: OwnedRoomId,
    /// Its number in the room.
    pub(super) ordinal: EventOrdinal,
}

/// A long absence being made good: changed device lists and each shared room's newest events instead of
/// the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Absence {
    /// From here on the log is read again.
    pub(super) until: StreamPosition,
    /// Lists that changed up to here were looked at; none are left if there is no place.
    pub(super) lists_after: Option<StreamPosition>,
    /// The last room that was looked at.
    pub(super) after_room: Option<OwnedRoomId>,
}

/// What goes into one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// The transaction's ID, if it was offered before and may have arrived.
    pub(super) offered_as: Option<OwnedTransactionId>,
    pub(super) items: Vec<Item>,
    pub(super) edus: TakenEdus,
    pub(super) messages: Messages,
}

impl Batch {
    /// Could a part of it be taken when the whole is not? What is only to be told now is not offered a
    /// second time.
    pub(super) fn may_be_divided(&self) -> bool {
        let alone = self.items.len() + self.go_alone();
        let others = usize::from(self.edus.has_what_is_told_once());
        alone > 0 && alone + others > 1
    }

    /// In how many further transactions the changed lists and messages to devices go alone.
    fn go_alone(&self) -> usize {
        users_among(&self.edus.lists) + self.messages.chosen.len()
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.edus.is_empty() && self.messages.chosen.is_empty()
    }

    /// The first place in the log.
    fn first(&self) -> Option<StreamPosition> {
        let item = self.items.first().map(|item| item.position);
        item.into_iter().chain(self.edus.logged_from()).min()
    }
}

/// What is to be done for a destination.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// These go into a transaction.
    Send(Batch),
    /// The log, or the rooms of an absence, must be read after this position.
    Read(StreamPosition, Option<Absence>),
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Item>,
    edus: EduQueue,
    /// Messages to devices may wait in the store.
    messages: bool,
    /// The same of those that were taken.
    messages_taken: bool,
    /// Taken for a transaction: the first place in the log and how many events.
    in_flight: Option<(StreamPosition, usize)>,
    /// A transaction that may have arrived although no answer came: it is offered again as it was.
    again: Option<Batch>,
    /// What comes after this position must be read from the log.
    behind: Option<StreamPosition>,
    absence: Option<Absence>,
    /// The cursor as persisted.
    row: Option<StreamPosition>,
    /// A task works on it.
    busy: bool,
    /// When it is to be worked on again.
    rests_until: Option<Instant>,
    /// Transactions in a row that were answered with an error.
    refusals: u32,
    /// The last such error.
    last_refusal: Option<String>,
    /// So many events go in transactions of their own, to find one that is refused.
    singly: usize,
    /// The same of changed lists and messages to devices.
    alone: usize,
}

impl Lane {
    fn has_work(&self) -> bool {
        self.again.is_some()
            || !self.queue.is_empty()
            || !self.edus.is_empty()
            || self.messages
            || self.behind.is_some()
    }

    fn is_idle(&self) -> bool {
        !self.busy && !self.has_work()
    }

    /// Everything up to here was delivered.
    fn delivered(&self, routed: StreamPosition) -> StreamPosition {
        let taken = self.in_flight.map(|(first, _)| first);
        let again = self.again.as_ref().and_then(Batch::first);
        let first = [taken, again, self.first_waiting()].into_iter().flatten();
        first.map(StreamPosition::previous).chain(self.behind).min().unwrap_or(routed)
    }

    /// The first place in the log of what waits here and was not taken.
    fn first_waiting(&self) -> Option<StreamPosition> {
        let queued = self.queue.front().map(|item| item.position);
        queued.into_iter().chain(self.edus.logged_from()).min()
    }

    /// Events that are in memory.
    fn held(&self) -> u64 {
        let taken = self.in_flight.map_or(0, |(_, count)| count);
        let again = self.again.as_ref().map_or(0, |batch| batch.items.len());
        (self.queue.len() + taken + again) as u64
    }

    /// Forgets what waits: it will be read again. What is not in the log is out of date by then, but
    /// for presence.
    fn fall_behind(&mut self, routed: StreamPosition) {
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
    fn take(&mut self) -> Batch {
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

    fn start(&mut self) {
        self.busy = true;
        self.rests_until = None;
    }

    fn is_due(&self, now: Instant) -> bool {
        let waits = !self.queue.is_empty() || self.messages || self.behind.is_some();
        let has_work = waits || self.again.is_some() || self.edus.is_due(now);
        !self.busy && has_work && self.rests_until.is_none_or(|until| until <= now)
    }
}

/// A cursor to persist: `None` means that the shared one says all.
pub(super) type Row = (OwnedServerName, Option<StreamPosition>);

/// What is to be persisted, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// Cursors of those who lag.
    pub(super) rows: Vec<Row>,
    /// The cursor of all others.
    pub(super) shared: StreamPosition,
}

/// What is known of a destination, to be told to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LaneState {
    /// Events in memory.
    pub(super) held: u64,
    /// What comes after this position in the log is still to be counted.
    pub(super) behind: Option<StreamPosition>,
    /// When it is tried again.
    pub(super) rests_until: Option<Instant>,
    /// Transactions in a row that were answered with an error.
    pub(super) refusals: u32,
    /// The last such error.
    pub(super) last_refusal: Option<String>,
}

/// All destinations that have something waiting.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// In order, so that the same happens in every simulation of the same seed.
    by_server: BTreeMap<OwnedServerName, Lane>,
    /// Lanes that hold a transaction to be offered again.
    again: usize,
    /// What is in the log up to here is distributed.
    routed: StreamPosition,
    /// Those that there was no place for.
    left_out: LeftOut,
    /// Something happened since the last checkpoint.
    changed: bool,
}

impl Lanes {
    /// The state as persisted.
    pub(super) fn new(
        shared: StreamPosition,
        rows: impl IntoIterator<Item = (OwnedServerName, StreamPosition)>,
    ) -> Self {
        let lane = |cursor| Lane { behind: Some(cursor), row: Some(cursor), ..Lane::default() };
        Self {
            by_server: rows.into_iter().map(|(server, cursor)| (server, lane(cursor))).collect(),
            again: 0,
            routed: shared,
            left_out: LeftOut::default(),
            changed: false,
        }
    }

    pub(super) fn routed(&self) -> StreamPosition {
        self.routed
    }

    /// Adds an event to a destination's queue. Must be followed by [`Self::set_routed`].
    pub(super) fn push(&mut self, server: &ServerName, item: Item) {
        let Some(lane) = self.lane(server) else {
            return self.left_out.add(server, item.position);
        };
        if lane.behind.is_some() {
            // It comes again when the log is read.
        } else if lane.queue.len() >= MAX_WAITING {
            lane.behind = Some(item.position.previous());
        } else {
            lane.queue.push_back(item);
        }
    }

    /// A destination's lane, which is made if there is none; `None` if there is no place for it.
    fn lane(&mut self, server: &ServerName) -> Option<&mut Lane> {
        if !self.by_server.contains_key(server) {
            if self.by_server.len() >= MAX_LANES {
                return None;
            }
            let lane = Lane { behind: self.left_out.remove(server), ..Lane::default() };
            self.by_server.insert(server.to_owned(), lane);
        }
        self.by_server.get_mut(server)
    }

    /// Makes lanes for those that were left out, as far as there are places now.
    pub(super) fn let_in(&mut self) {
        while self.by_server.len() < MAX_LANES
            && let Some(server) = self.left_out.first()
        {
            self.changed = true;
            let _ = self.lane(&server);
        }
    }

    /// Adds events from earlier in the log, in its order, that a destination was not told when they were
    /// routed.
    pub(super) fn push_earlier(&mut self, server: &ServerName, items: &[Item]) {
        let Some(first) = items.first() else { return };
        self.changed = true;
        let Some(lane) = self.lane(server) else {
            return self.left_out.add(server, first.position);
        };
        let fit = lane.queue.len() + items.len() <= MAX_WAITING;
        if fit && (lane.behind.is_none() || lane.absence.is_some()) {
            for item in items.iter().rev() {
                lane.queue.push_front(item.clone());
            }
            return;
        }
        // They come when the log is read, and so does what waits.
        let waiting = lane.first_waiting().into_iter().chain([first.position]);
        lane.behind = waiting.map(StreamPosition::previous).chain(lane.behind).min();
        lane.queue.clear();
        lane.edus.forget_while_away();
        lane.absence = None;
    }

    /// Adds a receipt. Must be followed by [`Self::set_routed`]. Whether somebody must come back for
    /// it, as with the other EDUs.
    pub(super) fn push_receipt(
        &mut self,
        server: &ServerName,
        receipt: PublicReceipt,
        now: Instant,
    ) -> bool {
        let position = receipt.position;
        let Some(lane) = self.lane(server) else {
            self.left_out.add(server, position);
            return false;
        };
        if lane.behind.is_some() {
            return false;
        }
        if !lane.edus.add_receipt(receipt) {
            lane.behind = Some(position.previous());
        }
        lane.edus.gather(now)
    }

    /// Adds a change of a user's devices. Must be followed by [`Self::set_routed`]. Whether somebody must
    /// come back for it.
    pub(super) fn push_list_change(
        &mut self,
        server: &ServerName,
        change: ListChange,
        now: Instant,
    ) -> bool {
        let position = change.position;
        let Some(lane) = self.lane(server) else {
            self.left_out.add(server, position);
            return false;
        };
        if lane.behind.is_some() {
            return false;
        }
        if !lane.edus.add_list_change(change) {
            lane.behind = Some(position.previous());
        }
        lane.edus.gather(now)
    }

    /// Adds a change whose place is before what was routed; it is found in the log again where it cannot
    /// wait. Whether somebody must come back for it, as with the other EDUs.
    pub(super) fn push_earlier_list(
        &mut self,
        server: &ServerName,
        change: ListChange,
        now: Instant,
    ) -> bool {
        self.changed = true;
        let Some(lane) = self.lane(server) else {
            self.left_out.add(server, change.position);
            return false;
        };
        // Who was long away is told to fetch the lists that changed since.
        if lane.absence.is_some() {
            return false;
        }
        let before = change.position.previous();
        if lane.behind.is_some() || !lane.edus.add_list_change(change) {
            lane.behind = Some(lane.behind.map_or(before, |behind| behind.min(before)));
            return false;
        }
        lane.edus.gather(now)
    }

    /// Adds changes that were read for a destination that is behind. Returns the first one that there is
    /// no place for. There is one for all unless others wait: what is read at a time is less than what may
    /// wait.
    pub(super) fn add_list_changes(
        &mut self,
        server: &ServerName,
        changes: Vec<ListChange>,
    ) -> Option<StreamPosition> {
        let lane = self.by_server.get_mut(server)?;
        changes.into_iter().find_map(|change| {
            let position = change.position;
            (!lane.edus.add_list_change(change)).then_some(position)
        })
    }

    /// Messages to devices wait in the store.
    pub(super) fn push_messages(&mut self, server: &ServerName) {
        let is_crowded = self.by_server.len() >= MAX_LANES_FOR_MESSAGES;
        if is_crowded && !self.by_server.contains_key(server) {
            self.left_out.messages = true;
        } else if let Some(lane) = self.lane(server) {
            lane.messages = true;
        }
    }

    /// Messages to devices wait in the store for destinations that are not known here.
    pub(super) fn messages_left_out(&mut self) {
        self.left_out.messages = true;
    }

    /// Are there messages in the store for destinations that were left out, and places for some? To be
    /// followed by [`Self::push_messages`] for all who have some.
    pub(super) fn take_messages_left_out(&mut self) -> bool {
        let wanted = self.left_out.messages && self.by_server.len() < MAX_LANES_FOR_MESSAGES;
        self.left_out.messages &= !wanted;
        wanted
    }

    /// Adds that somebody began or stopped typing; for nobody who cannot be told now.
    pub(super) fn push_typing(
        &mut self,
        server: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
        typing: bool,
        now: Instant,
    ) -> bool {
        let Some(lane) = self.lane(server) else { return false };
        if lane.rests_until.is_some_and(|until| until > now) {
            return false;
        }
        lane.edus.add_typing(room_id.to_owned(), user_id.to_owned(), typing);
        lane.edus.gather(now)
    }

    /// Adds that somebody's presence is to be told.
    pub(super) fn push_presence(
        &mut self,
        server: &ServerName,
        user_id: &UserId,
        now: Instant,
    ) -> bool {
        let Some(lane) = self.lane(server) else { return false };
        lane.edus.add_presence(user_id.to_owned());
        lane.edus.gather(now)
    }

    /// Everything up to here is pushed; `news` says whether the log told of anything.
    pub(super) fn set_routed(&mut self, position: StreamPosition, news: bool) {
        self.routed = self.routed.max(position);
        self.changed |= news;
    }

    /// Is there anything to persist since the last call? Cursors are no news in the log: persisting
    /// them must not be a reason to persist again.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Those to start a task for: they count as busy from now on.
    pub(super) fn start_due(&mut self, now: Instant) -> Vec<OwnedServerName> {
        let due = self.by_server.iter_mut().filter(|(_, lane)| lane.is_due(now));
        due.map(|(server, lane)| {
            lane.start();
            server.clone()
        })
        .collect()
    }

    /// Whether to start a task for this one, if it is due.
    pub(super) fn start_if_due(&mut self, server: &ServerName, now: Instant) -> bool {
        let Some(lane) = self.by_server.get_mut(server).filter(|lane| lane.is_due(now)) else {
            return false;
        };
        lane.start();
        true
    }

    /// The same, whatever it rests for.
    pub(super) fn start(&mut self, server: &ServerName, now: Instant) -> bool {
        if let Some(lane) = self.by_server.get_mut(server) {
            lane.rests_until = None;
        }
        self.start_if_due(server, now)
    }

    /// What its task does next; `None` if there is nothing, and the task ends.
    pub(super) fn next(&mut self, server: &ServerName, now: Instant) -> Option<Task> {
        let lane = self.by_server.get_mut(server)?;
        if let Some(batch) = lane.again.take() {
            self.again = self.again.saturating_sub(1);
            lane.in_flight = batch.first().map(|first| (first, batch.items.len()));
            lane.messages_taken = !batch.messages.chosen.is_empty();
            return Some(Task::Send(batch));
        }
        // EDUs go along with events, or when they have waited for long enough. What is read again finds a
        // place because nothing of its kind waits.
        let edus_go = !lane.queue.is_empty()
            || lane.messages
            || lane.edus.is_due(now)
            || (lane.behind.is_some() && lane.edus.has_logged());
        if !edus_go {
            let Some(behind) = lane.behind else {
                lane.busy = false;
                return None;
            };
            return Some(Task::Read(behind, lane.absence.clone()));
        }
        let batch = lane.take();
        lane.in_flight = batch.first().map(|first| (first, batch.items.len()));
        Some(Task::Send(batch))
    }

    /// What was taken may have arrived, or not: it is offered again under the same ID, so that it counts
    /// once. Who types is no news by then, and presence is told as it stands then.
    pub(super) fn offer_again(&mut self, server: &ServerName, mut batch: Batch) {
        let Some(lane) = self.by_server.get_mut(server) else { return };
        for user_id in batch.edus.leave_logged() {
            lane.edus.add_presence(user_id);
        }
        if batch.is_empty() || self.again >= MAX_AGAIN || lane.again.is_some() {
            return;
        }
        self.again += 1;
        lane.in_flight = None;
        lane.messages_taken = false;
        lane.again = Some(batch);
    }

    /// Some of what was taken did not fit.
    pub(super) fn give_back(&mut self, server: &ServerName, items: Vec<Item>) {
        let Some(lane) = self.by_server.get_mut(server) else { return };
        if let Some((_, count)) = &mut lane.in_flight {
            *count = count.saturating_sub(items.len());
        }
        for item in items.into_iter().rev() {
            lane.queue.push_front(item);
        }
    }

    /// What was read for a destination that is behind. What there is no place for is read again.
    pub(super) fn refill(&mut self, server: &ServerName, missed: Missed) {
        let Missed { mut items, receipts, lists, mut until } = missed;
        let routed = self.routed;
        self.changed = true;
        if let Some(position) = self.add_list_changes(server, lists) {
            until = until.min(position.previous());
        }
        let Some(lane) = self.by_server.get_mut(server) else { return };
        for receipt in receipts {
            let position = receipt.position;
            if !lane.edus.add_receipt(receipt) {
                until = until.min(position.previous());
            }
        }
        items.retain(|item| item.position <= until);
        lane.queue.extend(items);
        lane.absence = None;
        lane.behind = (until < routed).then_some(until);
    }

    /// A part of what makes an absence good, or how it begins. The cursor stays where it is.
    pub(super) fn refill_absence(
        &mut self,
        server: &ServerName,
        items: Vec<Item>,
        absence: Absence,
    ) {
        let Some(lane) = self.by_server.get_mut(server) else { return };
        lane.queue.extend(items);
        lane.absence = Some(absence);
    }

    /// An absence is made good by the last of its events: the log is read again from `until` on.
    pub(super) fn absence_over(
        &mut self,
        server: &ServerName,
        items: Vec<Item>,
        until: StreamPosition,
    ) {
        self.changed = true;
        let Some(lane) = self.by_server.get_mut(server) else { return };
        lane.queue.extend(items);
        lane.absence = None;
        lane.behind = Some(until);
    }

    /// What was taken was delivered, or is no longer to be.
    pub(super) fn delivered(&mut self, server: &ServerName) {
        self.changed = true;
        let Some(lane) = self.by_server.get_mut(server) else { return };
        lane.in_flight = None;
        lane.messages_taken = false;
        lane.refusals = 0;
        lane.last_refusal = None;
        lane.singly = lane.singly.saturating_sub(1);
    }

    /// What was taken is not offered any more; counts the answer that was an error, and tells how many
    /// there were in a row before it.
    pub(super) fn given_up(&mut self, server: &ServerName, error: String) -> u32 {
        self.changed = true;
        if let Some(lane) = self.by_server.get_mut(server) {
            lane.in_flight = None;
            lane.messages_taken = false;
            lane.singly = lane.singly.saturating_sub(1);
        }
        self.refused(server, error)
    }

    /// What was taken was refused as a whole: each event is offered alone, and so are the changed lists of
    /// each user and each message to devices.
    pub(super) fn offer_singly(&mut self, server: &ServerName, batch: Batch) {
        let Some(lane) = self.by_server.get_mut(server) else { return };
        lane.singly = batch.items.len();
        lane.alone = batch.go_alone();
        lane.messages |= !batch.messages.chosen.is_empty();
        lane.messages_taken = false;
        lane.in_flight = None;
        for item in batch.items.into_iter().rev() {
            lane.queue.push_front(item);
        }
        for change in batch.edus.lists {
            let before = change.position.previous();
            if !lane.edus.add_list_change(change) {
                // It is read again, with what came since, which is known by its ID.
                lane.behind = Some(lane.behind.map_or(before, |behind| behind.min(before)));
            }
        }
    }

    /// Counts an answer that was an error, and tells how many there were in a row before it.
    pub(super) fn refused(&mut self, server: &ServerName, error: String) -> u32 {
        let Some(lane) = self.by_server.get_mut(server) else { return 0 };
        lane.last_refusal = Some(error);
        let before = lane.refusals;
        lane.refusals = before.saturating_add(1);
        before
    }

    /// The task ends without having delivered what it took, to go on at a later time.
    pub(super) fn rest(&mut self, server: &ServerName, until: Instant) {
        let routed = self.routed;
        self.changed = true;
        let Some(lane) = self.by_server.get_mut(server) else { return };
        lane.fall_behind(routed);
        lane.busy = false;
        lane.rests_until = Some(until);
    }

    /// Nothing is to be sent there any more.
    pub(super) fn drop_all(&mut self, server: &ServerName) {
        self.changed = true;
        let Some(lane) = self.by_server.get_mut(server) else { return };
        self.again = self.again.saturating_sub(usize::from(lane.again.is_some()));
        // Its task goes on, and ends when it finds nothing.
        *lane = Lane { row: lane.row, busy: lane.busy, ..Lane::default() };
    }

    /// What to persist now. To be followed by [`Self::persisted`] when that is done; if it is not, the
    /// same is to be persisted the next time.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        let routed = self.routed;
        let mut rows = Vec::new();
        let mut shared = self.left_out.since().map_or(routed, |since| since.min(routed));
        for (server, lane) in &self.by_server {
            let delivered = lane.delivered(routed);
            let idle = lane.is_idle();
            let lags = lane.behind.is_some()
                || routed.get().saturating_sub(delivered.get()) > MAX_SHARED_LAG;
            let wanted = if idle {
                None
            } else if lags {
                Some(delivered)
            } else {
                shared = shared.min(delivered);
                // An older cursor repeats a little after a restart, and loses nothing.
                lane.row
            };
            if wanted != lane.row {
                rows.push((server.clone(), wanted));
            }
        }
        Checkpoint { rows, shared }
    }

    /// A checkpoint is written. Lanes without work go.
    pub(super) fn persisted(&mut self, checkpoint: &Checkpoint) {
        for (server, row) in &checkpoint.rows {
            if let Some(lane) = self.by_server.get_mut(server) {
                lane.row = *row;
            }
        }
        self.by_server.retain(|_, lane| !lane.is_idle() || lane.row.is_some());
    }

    /// A checkpoint could not be written: it is made again.
    pub(super) fn not_persisted(&mut self) {
        self.changed = true;
    }

    /// What is known of those that have something waiting.
    pub(super) fn states(&self) -> HashMap<OwnedServerName, LaneState> {
        let waiting = self.by_server.iter().filter(|(_, lane)| lane.has_work() || lane.busy);
        let state = |(server, lane): (&OwnedServerName, &Lane)| {
            let state = LaneState {
                held: lane.held(),
                behind: lane.behind,
                rests_until: lane.rests_until,
                refusals: lane.refusals,
                last_refusal: lane.last_refusal.clone(),
            };
            (server.clone(), state)
        };
        waiting.map(state).collect()
    }
}
