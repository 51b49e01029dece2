//! What comes to wait: as it is routed, from earlier in the log, and as it is read again.

use hearth_types::StreamPosition;
use ruma::{RoomId, ServerName, UserId};
use tokio::time::Instant;

use super::{
    super::{catch_up::Missed, edus::PublicReceipt, lists::ListChange},
    Absence, Item, Lanes, MAX_LANES, MAX_WAITING,
};

/// When there are so many, none is made for messages to devices alone: anybody may send those to servers
/// that do not exist. They wait in the store until there are fewer.
const MAX_LANES_FOR_MESSAGES: usize = MAX_LANES / 2;

impl Lanes {
    /// Adds an event to a destination's queue. Must be followed by [`Self::set_routed`].
    pub(in crate::outbound) fn push(&mut self, server: &ServerName, item: Item) {
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

    /// Adds events from earlier in the log, in its order, that a destination was not told when they were
    /// routed.
    pub(in crate::outbound) fn push_earlier(&mut self, server: &ServerName, items: &[Item]) {
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
    pub(in crate::outbound) fn push_receipt(
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
    pub(in crate::outbound) fn push_list_change(
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
    pub(in crate::outbound) fn push_earlier_list(
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
    pub(in crate::outbound) fn add_list_changes(
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
    pub(in crate::outbound) fn push_messages(&mut self, server: &ServerName) {
        let is_crowded = self.by_server.len() >= MAX_LANES_FOR_MESSAGES;
        if is_crowded && !self.by_server.contains_key(server) {
            self.left_out.messages = true;
        } else if let Some(lane) = self.lane(server) {
            lane.messages = true;
        }
    }

    /// Messages to devices wait in the store for destinations that are not known here.
    pub(in crate::outbound) fn messages_left_out(&mut self) {
        self.left_out.messages = true;
    }

    /// Are there messages in the store for destinations that were left out, and places for some? To be
    /// followed by [`Self::push_messages`] for all who have some.
    pub(in crate::outbound) fn take_messages_left_out(&mut self) -> bool {
        let wanted = self.left_out.messages && self.by_server.len() < MAX_LANES_FOR_MESSAGES;
        self.left_out.messages &= !wanted;
        wanted
    }

    /// Adds that somebody began or stopped typing; for nobody who cannot be told now.
    pub(in crate::outbound) fn push_typing(
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
    pub(in crate::outbound) fn push_presence(
        &mut self,
        server: &ServerName,
        user_id: &UserId,
        now: Instant,
    ) -> bool {
        let Some(lane) = self.lane(server) else { return false };
        lane.edus.add_presence(user_id.to_owned());
        lane.edus.gather(now)
    }

    /// What was read for a destination that is behind. What there is no place for is read again.
    pub(in crate::outbound) fn refill(&mut self, server: &ServerName, missed: Missed) {
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
    pub(in crate::outbound) fn refill_absence(
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
    pub(in crate::outbound) fn absence_over(
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
}
