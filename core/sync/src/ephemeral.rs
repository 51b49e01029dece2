//! Typing and receipts of one room.

use std::collections::{BTreeMap, HashMap, HashSet};

use hearth_users::ReceiptEntry;
use ruma::{
    OwnedEventId, OwnedUserId, RoomId, UserId,
    events::receipt::{ReceiptThread, ReceiptType},
};
use serde::Serialize;

use crate::{
    SyncError, body::EventList, body::write_json, delivery::DELIVERED_RECEIPT, pass::Pass,
    service::Inner,
};

/// What a receipt says (CS "m.receipt").
#[derive(Debug, Serialize)]
pub(crate) struct Receipt {
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<String>,
}

/// Content of `m.receipt`: event, receipt type, user.
pub(crate) type ReceiptContent =
    BTreeMap<OwnedEventId, BTreeMap<ReceiptType, BTreeMap<OwnedUserId, Receipt>>>;

impl Pass<'_> {
    /// Adds the room's `m.typing` if it changed; on a whole room only if somebody types.
    pub(crate) fn add_typing(&self, room_id: &RoomId, whole: bool, out: &mut EventList) {
        let users = &self.inner.users;
        let known = self.question.since.map_or(0, |since| since.typing);
        let changed = users.room_typing_serial(room_id) > known;
        if !(changed || whole) || !self.question.filter.wants_ephemeral(room_id, "m.typing") {
            return;
        }
        let mut typing = users.typing(room_id);
        let ignored = &self.ignored;
        typing.user_ids.retain(|user_id| !ignored.contains(user_id));
        if changed && self.question.since.is_some() && !whole || !typing.user_ids.is_empty() {
            let mut content = Vec::new();
            write_json(&mut content, &BTreeMap::from([("user_ids", &typing.user_ids)]));
            out.push_event("m.typing", &content);
        }
    }

    /// Adds receipts as `m.receipt`. In large rooms only the user's own are shown.
    pub(crate) async fn add_receipts(
        &self,
        room_id: &RoomId,
        receipts: Vec<ReceiptEntry>,
        large: bool,
        out: &mut EventList,
    ) -> Result<(), SyncError> {
        if receipts.is_empty() || !self.question.filter.wants_ephemeral(room_id, "m.receipt") {
            return Ok(());
        }
        let user_id = &self.question.user_id;
        let mut receipts = shown_receipts(user_id, &self.ignored, receipts, large);
        self.inner.keep_own_deliveries(user_id, room_id, &mut receipts).await?;
        for content in contents(receipts) {
            let mut json = Vec::new();
            write_json(&mut json, &content);
            out.push_event("m.receipt", &json);
        }
        Ok(())
    }
}

/// Those of a room's receipts that a user is shown: in large rooms only their own.
pub(crate) fn shown_receipts(
    user_id: &UserId,
    ignored: &HashSet<OwnedUserId>,
    mut receipts: Vec<ReceiptEntry>,
    large: bool,
) -> Vec<ReceiptEntry> {
    receipts.retain(|receipt| {
        receipt.user_id == user_id || !(large || ignored.contains(&receipt.user_id))
    });
    receipts
}

impl Inner {
    /// That a message was delivered is told to its sender and to nobody else.
    pub(crate) async fn keep_own_deliveries(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        receipts: &mut Vec<ReceiptEntry>,
    ) -> Result<(), SyncError> {
        let mut own_events: HashMap<OwnedEventId, bool> = HashMap::new();
        for receipt in receipts.iter() {
            if receipt.receipt_type.as_str() == DELIVERED_RECEIPT
                && !own_events.contains_key(&receipt.event_id)
            {
                let event = self.rooms.event_by_id(room_id, &receipt.event_id).await?;
                let own = event.is_some_and(|event| event.pdu.sender() == user_id);
                own_events.insert(receipt.event_id.clone(), own);
            }
        }
        receipts.retain(|receipt| {
            receipt.receipt_type.as_str() != DELIVERED_RECEIPT
                || own_events.get(&receipt.event_id).copied().unwrap_or_default()
        });
        Ok(())
    }
}

/// Receipts as contents of `m.receipt`. One content holds one receipt for each event, type and user;
/// where a user has several (in different threads) there is another event for each more.
pub(crate) fn contents(receipts: Vec<ReceiptEntry>) -> Vec<ReceiptContent> {
    let mut contents: Vec<ReceiptContent> = Vec::new();
    for entry in receipts {
        let thread_id = match &entry.thread {
            ReceiptThread::Unthreaded => None,
            other => other.as_str().map(str::to_owned),
        };
        let receipt = Receipt { ts: entry.ts_ms, thread_id };
        let free = contents.iter().position(|content| {
            let users =
                content.get(&entry.event_id).and_then(|types| types.get(&entry.receipt_type));
            users.is_none_or(|users| !users.contains_key(&entry.user_id))
        });
        let place = free.unwrap_or_else(|| {
            contents.push(ReceiptContent::new());
            contents.len() - 1
        });
        if let Some(content) = contents.get_mut(place) {
            content
                .entry(entry.event_id)
                .or_default()
                .entry(entry.receipt_type)
                .or_default()
                .insert(entry.user_id, receipt);
        }
    }
    contents
}

#[cfg(test)]
mod tests {
    use hearth_types::StreamPosition;
    use ruma::{owned_event_id, owned_user_id};
    use serde_json::json;

    use super::*;

    fn entry(event_id: OwnedEventId, thread: ReceiptThread) -> ReceiptEntry {
        ReceiptEntry {
            position: StreamPosition::new(1),
            user_id: owned_user_id!("@u:x"),
            receipt_type: ReceiptType::Read,
            thread,
            event_id,
            ts_ms: 5,
            timeline_position: 1,
        }
    }

    #[test]
    fn receipts_of_one_user_in_several_threads_do_not_hide_each_other() {
        let event = owned_event_id!("$a");
        let written = contents(vec![
            entry(event.clone(), ReceiptThread::Unthreaded),
            entry(event.clone(), ReceiptThread::Main),
            entry(owned_event_id!("$b"), ReceiptThread::Thread(event)),
        ]);
        let wanted = json!([
            {"$a": {"m.read": {"@u:x": {"ts": 5}}},
             "$b": {"m.read": {"@u:x": {"ts": 5, "thread_id": "$a"}}}},
            {"$a": {"m.read": {"@u:x": {"ts": 5, "thread_id": "main"}}}},
        ]);
        assert_eq!(serde_json::to_value(&written).unwrap(), wanted);
    }
}
