//! EDUs that wait for one destination (SS "EDUs"): the newest of each kind, for each room and user.
//!
//! Receipts and changes of devices stand in the log and have their place there: what is not delivered is
//! found again. Typing and presence live in memory. Of presence only the names wait: what is sent is how it stands then.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hearth_types::StreamPosition;
use hearth_users::{LogKind, Presence, ReceiptLog};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, UInt,
    api::federation::transactions::edu::{
        Edu, PresenceContent, PresenceUpdate, ReceiptContent, ReceiptData, ReceiptMap,
        TypingContent,
    },
    events::receipt::{Receipt, ReceiptThread, ReceiptType},
    serde::Raw,
};
use tokio::time::Instant;

use super::lists::{ListChange, ListQueue};

/// How long EDUs wait for company when no event goes out that they could go with.
pub(super) const GATHER: Duration = Duration::from_millis(50);
/// Typing notifications that wait for one destination: more at once say nothing.
const MAX_TYPING: usize = 100;
/// Users whose presence waits for one destination.
const MAX_PRESENCE: usize = 1_000;
/// Receipts that wait for one destination; further ones are read from the log again.
const MAX_RECEIPTS: usize = 1_000;
/// Typing notifications in one transaction, an EDU each.
const TYPING_AT_ONCE: usize = 20;
/// Users in one transaction's presence, which is one EDU.
const PRESENCE_AT_ONCE: usize = 100;
/// Receipts in one transaction.
const RECEIPTS_AT_ONCE: usize = 500;
/// EDUs with receipts in one transaction. One EDU has one thread for each room and user. With the fifteen
/// changes of devices all together are fifty; the other half of the 100 EDUs of a transaction (SS
/// "Transactions") is for messages to devices.
const RECEIPT_EDUS: usize = 14;

/// Which receipt: room, user, thread (empty: unthreaded).
pub(super) type ReceiptKey = (OwnedRoomId, OwnedUserId, String);

/// A receipt on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicReceipt {
    /// Its place in the log.
    pub(super) position: StreamPosition,
    pub(super) key: ReceiptKey,
    event_id: OwnedEventId,
    ts_ms: u64,
}

impl PublicReceipt {
    /// The receipt of a log entry of this kind and payload, if other servers learn of it.
    pub(super) fn of(position: StreamPosition, kind: u8, payload: &[u8]) -> Option<Self> {
        if kind != LogKind::Receipt as u8 {
            return None;
        }
        let log: ReceiptLog = serde_json::from_slice(payload).ok()?;
        let ReceiptLog { room_id, user_id, receipt_type, thread, event_id, ts_ms } = log;
        let is_read = receipt_type == ReceiptType::Read.as_str();
        is_read.then_some(Self { position, key: (room_id, user_id, thread), event_id, ts_ms })
    }
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct EduQueue {
    typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    presence: BTreeSet<OwnedUserId>,
    receipts: BTreeMap<ReceiptKey, PublicReceipt>,
    /// No waiting receipt stands before this place.
    receipts_from: Option<StreamPosition>,
    lists: ListQueue,
    /// When it need not wait for company any more.
    due: Option<Instant>,
}

impl EduQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.typing.is_empty()
            && self.presence.is_empty()
            && self.receipts.is_empty()
            && self.lists.is_empty()
    }

    /// Does anything wait that stands in the log?
    pub(super) fn has_logged(&self) -> bool {
        !self.receipts.is_empty() || !self.lists.is_empty()
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.is_empty() && self.due.is_none_or(|due| due <= now)
    }

    /// The place in the log of the first of these that waits, or one before it.
    pub(super) fn logged_from(&self) -> Option<StreamPosition> {
        self.receipts_from.into_iter().chain(self.lists.first()).min()
    }

    /// Lets what was just added wait for company. Whether somebody must come back for it.
    pub(super) fn gather(&mut self, now: Instant) -> bool {
        let first = self.due.is_none() && !self.is_empty();
        if first {
            self.due = Some(now + GATHER);
        }
        first
    }

    pub(super) fn add_typing(&mut self, room_id: OwnedRoomId, user_id: OwnedUserId, typing: bool) {
        let key = (room_id, user_id);
        if self.typing.len() < MAX_TYPING || self.typing.contains_key(&key) {
            self.typing.insert(key, typing);
        }
    }

    pub(super) fn add_presence(&mut self, user_id: OwnedUserId) {
        if self.presence.len() < MAX_PRESENCE {
            self.presence.insert(user_id);
        }
    }

    /// Whether there was a place for it.
    pub(super) fn add_receipt(&mut self, receipt: PublicReceipt) -> bool {
        if self.receipts.len() >= MAX_RECEIPTS && !self.receipts.contains_key(&receipt.key) {
            return false;
        }
        self.receipts_from.get_or_insert(receipt.position);
        self.receipts.insert(receipt.key.clone(), receipt);
        true
    }

    /// Whether there was a place for it.
    pub(super) fn add_list_change(&mut self, change: ListChange) -> bool {
        self.lists.add(change)
    }

    /// Takes the changes of one user.
    pub(super) fn take_one_list(&mut self) -> TakenEdus {
        TakenEdus { lists: self.lists.take(true), ..TakenEdus::default() }
    }

    /// Nobody wants to know later who typed; what stands in the log will be read again.
    pub(super) fn forget_while_away(&mut self) {
        self.typing.clear();
        self.receipts.clear();
        self.receipts_from = None;
        self.lists.clear();
    }

    /// What goes into one transaction.
    pub(super) fn take(&mut self) -> TakenEdus {
        let receipts_from = self.receipts_from;
        let receipts = self.take_receipts();
        let mut typing = BTreeMap::new();
        while typing.len() < TYPING_AT_ONCE
            && let Some((key, value)) = self.typing.pop_first()
        {
            typing.insert(key, value);
        }
        let mut presence = Vec::new();
        while presence.len() < PRESENCE_AT_ONCE
            && let Some(user_id) = self.presence.pop_first()
        {
            presence.push(user_id);
        }
        if self.receipts.is_empty() {
            self.receipts_from = None;
        }
        self.due = None;
        let receipts_from = receipts_from.filter(|_| !receipts.is_empty());
        let lists = self.lists.take(false);
        TakenEdus { typing, presence, receipts, receipts_from, lists }
    }

    /// Receipts by EDU: those of a user's further threads in a room go into further EDUs.
    fn take_receipts(&mut self) -> Vec<Vec<PublicReceipt>> {
        let mut edus: Vec<Vec<PublicReceipt>> = Vec::new();
        let mut taken = Vec::new();
        let (mut last, mut nth) = (None, 0);
        for (key, receipt) in &self.receipts {
            if taken.len() >= RECEIPTS_AT_ONCE {
                break;
            }
            let whose = Some((&key.0, &key.1));
            nth = if last == whose { nth + 1 } else { 0 };
            last = whose;
            if nth >= RECEIPT_EDUS {
                continue;
            }
            if edus.len() <= nth {
                edus.push(Vec::new());
            }
            if let Some(edu) = edus.get_mut(nth) {
                edu.push(receipt.clone());
                taken.push(key.clone());
            }
        }
        for key in taken {
            self.receipts.remove(&key);
        }
        edus
    }
}

/// What was taken for one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TakenEdus {
    typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    /// Whose presence is to be told.
    pub(super) presence: Vec<OwnedUserId>,
    receipts: Vec<Vec<PublicReceipt>>,
    /// No receipt among these stands before this place.
    receipts_from: Option<StreamPosition>,
    pub(super) lists: Vec<ListChange>,
}

impl TakenEdus {
    pub(super) fn is_empty(&self) -> bool {
        self.typing.is_empty()
            && self.presence.is_empty()
            && self.receipts.is_empty()
            && self.lists.is_empty()
    }

    /// Is anything among these that is not offered a second time when it is refused?
    pub(super) fn has_what_is_told_once(&self) -> bool {
        !self.typing.is_empty() || !self.presence.is_empty() || !self.receipts.is_empty()
    }

    /// The first place in the log of these.
    pub(super) fn logged_from(&self) -> Option<StreamPosition> {
        let lists = self.lists.iter().map(|change| change.position);
        lists.chain(self.receipts_from).min()
    }

    /// Keeps what stands in the log. Returns whose presence is still to be told.
    pub(super) fn leave_logged(&mut self) -> Vec<OwnedUserId> {
        self.typing.clear();
        std::mem::take(&mut self.presence)
    }

    /// The EDUs but for changed lists, with the presence as it stands now.
    pub(super) fn build(&self, presence: Vec<PresenceUpdate>) -> Vec<Raw<Edu>> {
        let mut edus: Vec<Edu> = Vec::new();
        for ((room_id, user_id), typing) in &self.typing {
            let content = TypingContent::new(room_id.clone(), user_id.clone(), *typing);
            edus.push(Edu::Typing(content));
        }
        if !presence.is_empty() {
            edus.push(Edu::Presence(PresenceContent::new(presence)));
        }
        edus.extend(self.receipts.iter().map(|receipts| Edu::Receipt(receipt_content(receipts))));
        // Strings, numbers and booleans cannot fail to become JSON.
        edus.iter().filter_map(|edu| Raw::new(edu).ok()).collect()
    }
}

fn receipt_content(receipts: &[PublicReceipt]) -> ReceiptContent {
    let mut rooms = BTreeMap::new();
    for PublicReceipt { key: (room_id, user_id, thread), event_id, ts_ms, .. } in receipts {
        let thread = Some(thread.as_str()).filter(|thread| !thread.is_empty());
        let ts = MilliSecondsSinceUnixEpoch(uint(*ts_ms));
        let mut receipt = Receipt::new(ts);
        // Checked when it was written.
        receipt.thread = ReceiptThread::try_from(thread).unwrap_or_default();
        let data = ReceiptData::new(receipt, vec![event_id.clone()]);
        let room = rooms.entry(room_id.clone()).or_insert_with(|| ReceiptMap::new(BTreeMap::new()));
        room.read.insert(user_id.clone(), data);
    }
    ReceiptContent::new(rooms)
}

/// A user's presence as another server is told it.
pub(super) fn presence_update(
    user_id: OwnedUserId,
    presence: Presence,
    now_ms: u64,
) -> PresenceUpdate {
    let ago_ms = now_ms.saturating_sub(presence.last_active_ms.unwrap_or(now_ms));
    let mut update = PresenceUpdate::new(user_id, presence.state, uint(ago_ms));
    update.status_msg = presence.status_msg;
    update.currently_active = presence.currently_active;
    update
}

fn uint(number: u64) -> UInt {
    UInt::new_saturating(number)
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_room_id};

    use super::*;

    fn user(number: usize) -> OwnedUserId {
        format!("@u{number}:here.test").try_into().unwrap()
    }

    fn receipt(position: u64, user_id: OwnedUserId, thread: &str) -> PublicReceipt {
        PublicReceipt {
            position: StreamPosition::new(position),
            key: (owned_room_id!("!r:here.test"), user_id, thread.to_owned()),
            event_id: owned_event_id!("$e:here.test"),
            ts_ms: position,
        }
    }

    #[test]
    fn the_newest_receipt_of_a_user_replaces_the_others() {
        let mut queue = EduQueue::default();
        for position in 1..50 {
            assert!(queue.add_receipt(receipt(position, user(0), "")));
        }
        assert_eq!(queue.logged_from(), Some(StreamPosition::new(1)));
        let taken = queue.take();
        assert_eq!(taken.receipts, [vec![receipt(49, user(0), "")]]);
        assert_eq!(taken.receipts_from, Some(StreamPosition::new(1)));
        assert!(queue.is_empty() && queue.logged_from().is_none());
    }

    #[test]
    fn each_edu_has_one_thread_of_a_user_and_a_transaction_has_few_edus() {
        let mut queue = EduQueue::default();
        for (number, place) in (0..RECEIPT_EDUS + 5).zip(0..) {
            queue.add_receipt(receipt(place, user(0), &format!("$thread{number:04}")));
            queue.add_receipt(receipt(place, user(number + 1), "main"));
        }
        for number in 0..80 {
            queue.add_typing(owned_room_id!("!r:here.test"), user(number), true);
        }
        let edus = queue.take().build(Vec::new());
        assert_eq!(edus.len(), RECEIPT_EDUS + TYPING_AT_ONCE);
        let edus = queue.take().build(Vec::new());
        assert_eq!(edus.len(), 5 + TYPING_AT_ONCE);
        queue.take();
        queue.take();
        assert!(queue.is_empty());
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut queue = EduQueue::default();
        for number in 0..MAX_RECEIPTS {
            queue.add_typing(owned_room_id!("!r:here.test"), user(number), true);
            queue.add_presence(user(number));
            assert!(queue.add_receipt(receipt(1, user(number), "")));
        }
        assert!(!queue.add_receipt(receipt(1, user(MAX_RECEIPTS), "")));
        assert!(queue.add_receipt(receipt(1, user(0), "")), "it replaces another");
        queue.add_presence(user(MAX_RECEIPTS));
        assert_eq!(queue.presence.len(), MAX_PRESENCE);
        assert_eq!(queue.typing.len(), MAX_TYPING);
        let edu = queue.take();
        let receipts: usize = edu.receipts.iter().map(Vec::len).sum();
        assert_eq!((receipts, edu.presence.len()), (RECEIPTS_AT_ONCE, PRESENCE_AT_ONCE));
    }
}
