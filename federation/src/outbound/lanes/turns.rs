//! Whose turn it is, what its task takes, and what becomes of that.

use ruma::{OwnedServerName, ServerName};
use tokio::time::Instant;

use super::{Batch, Item, Lanes, Task};

/// Transactions that are held to be offered again. Of further destinations that do not answer, what was
/// taken is read from the log again, and goes under another ID.
const MAX_AGAIN: usize = 2_000;

impl Lanes {
    /// Those to start a task for: they count as busy from now on.
    pub(in crate::outbound) fn start_due(&mut self, now: Instant) -> Vec<OwnedServerName> {
        let due = self.by_server.iter_mut().filter(|(_, lane)| lane.is_due(now));
        due.map(|(server, lane)| {
            lane.start();
            server.clone()
        })
        .collect()
    }

    /// Whether to start a task for this one, if it is due.
    pub(in crate::outbound) fn start_if_due(&mut self, server: &ServerName, now: Instant) -> bool {
        let Some(lane) = self.by_server.get_mut(server).filter(|lane| lane.is_due(now)) else {
            return false;
        };
        lane.start();
        true
    }

    /// The same, whatever it rests for.
    pub(in crate::outbound) fn start(&mut self, server: &ServerName, now: Instant) -> bool {
        if let Some(lane) = self.by_server.get_mut(server) {
            lane.rests_until = None;
        }
        self.start_if_due(server, now)
    }

    /// What its task does next; `None` if there is nothing, and the task ends.
    pub(in crate::outbound) fn next(&mut self, server: &ServerName, now: Instant) -> Option<Task> {
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
    pub(in crate::outbound) fn offer_again(&mut self, server: &ServerName, mut batch: Batch) {
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
    pub(in crate::outbound) fn give_back(&mut self, server: &ServerName, items: Vec<Item>) {
        let Some(lane) = self.by_server.get_mut(server) else { return };
        if let Some((_, count)) = &mut lane.in_flight {
            *count = count.saturating_sub(items.len());
        }
        for item in items.into_iter().rev() {
            lane.queue.push_front(item);
        }
    }

    /// What was taken was delivered, or is no longer to be.
    pub(in crate::outbound) fn delivered(&mut self, server: &ServerName) {
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
    pub(in crate::outbound) fn given_up(&mut self, server: &ServerName, error: String) -> u32 {
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
    pub(in crate::outbound) fn offer_singly(&mut self, server: &ServerName, batch: Batch) {
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
    pub(in crate::outbound) fn refused(&mut self, server: &ServerName, error: String) -> u32 {
        let Some(lane) = self.by_server.get_mut(server) else { return 0 };
        lane.last_refusal = Some(error);
        let before = lane.refusals;
        lane.refusals = before.saturating_add(1);
        before
    }

    /// The task ends without having delivered what it took, to go on at a later time.
    pub(in crate::outbound) fn rest(&mut self, server: &ServerName, until: Instant) {
        let routed = self.routed;
        self.changed = true;
        let Some(lane) = self.by_server.get_mut(server) else { return };
        lane.fall_behind(routed);
        lane.busy = false;
        lane.rests_until = Some(until);
    }
}
