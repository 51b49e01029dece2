//! Unread counts: the ledger's differences against a plain recount.

use std::collections::BTreeMap;

use hearth_rooms::{
    read::{Stretch, TimelineToken, UnreadCounts, UnreadTotals},
    schema::{Membership, StoredEvent, TimelineIndex},
};
use hearth_storage::Direction;
use proptest::prelude::*;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId,
    events::receipt::{ReceiptThread, ReceiptType},
    push::{NewPatternedPushRule, NewPushRule},
};
use serde_json::{Value, json};

use crate::{
    sliding::{Phone, room, window},
    world::{Ask, World, joined, user},
};

const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// What may happen; indices are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Send { sender: usize, thread: Option<usize>, notice: bool, mention: Option<usize>, room: bool },
    Read { reader: usize, event: usize, private: bool, scope: Scope },
    Redact { event: usize },
    Leave { user: usize },
    Join { user: usize },
}

#[derive(Clone, Copy, Debug)]
enum Scope {
    Unthreaded,
    Own,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = 0..20_usize;
    let step = prop_oneof![
        8 => (
            index.clone(),
            proptest::option::of(index.clone()),
            proptest::bool::weighted(0.2),
            proptest::option::weighted(0.3, index.clone()),
            proptest::bool::weighted(0.1),
        )
            .prop_map(|(sender, thread, notice, mention, room)| Step::Send {
                sender, thread, notice, mention, room
            }),
        4 => (
            index.clone(),
            index.clone(),
            any::<bool>(),
            prop_oneof![Just(Scope::Unthreaded), Just(Scope::Own)],
        )
            .prop_map(|(reader, event, private, scope)| Step::Read {
                reader, event, private, scope
            }),
        2 => index.clone().prop_map(|event| Step::Redact { event }),
        1 => index.clone().prop_map(|user| Step::Leave { user }),
        2 => index.prop_map(|user| Step::Join { user }),
    ];
    proptest::collection::vec(step, 1..50)
}

/// The world and a plain model of what users have read.
struct Model {
    world: World,
    room: OwnedRoomId,
    users: Vec<OwnedUserId>,
    /// Messages in order, with the thread of those that are in one.
    sent: Vec<(OwnedEventId, Option<OwnedEventId>)>,
    /// By user and scope ("" unthreaded, "main", a root): how far they read.
    marks: BTreeMap<(OwnedUserId, String), u64>,
}

impl Model {
    async fn new() -> Self {
        let world = World::new().await;
        let users: Vec<OwnedUserId> = USERS.into_iter().map(user).collect();
        let room = world.room(&users[0]).await;
        // The last user's rules are their own: a rule that never applies makes them so.
        let (id, pattern) = ("never".to_owned(), "not in any message".to_owned());
        let rule = NewPushRule::Content(NewPatternedPushRule::new(id, pattern, Vec::new()));
        world.users.put_push_rule(&users[2], rule, None, None).await.unwrap();
        Self { world, room, users, sent: Vec::new(), marks: BTreeMap::new() }
    }

    async fn is_joined(&self, user_id: &OwnedUserId) -> bool {
        let row = self.world.rooms.user_room(user_id, &self.room).await.unwrap();
        row.is_some_and(|row| row.details.membership == Membership::Join)
    }

    async fn apply(&mut self, step: Step) {
        match step {
            Step::Send { sender, thread, notice, mention, room } => {
                let sender = self.users[sender % self.users.len()].clone();
                if !self.is_joined(&sender).await {
                    return;
                }
                let roots: Vec<OwnedEventId> = self
                    .sent
                    .iter()
                    .filter(|(_, thread)| thread.is_none())
                    .map(|(id, _)| id.clone())
                    .collect();
                let root = thread.and_then(|at| roots.get(at % roots.len().max(1)).cloned());
                let mut content = json!({
                    "msgtype": if notice { "m.notice" } else { "m.text" },
                    "body": "x",
                    "m.mentions": {"room": room},
                });
                if let Some(at) = mention {
                    let name = &self.users[at % self.users.len()];
                    content["m.mentions"]["user_ids"] = json!([name]);
                }
                if let Some(root) = &root {
                    content["m.relates_to"] = json!({"rel_type": "m.thread", "event_id": root});
                }
                let id = self.world.send(&self.room, &sender, "m.room.message", content).await;
                if !notice {
                    // Sending is reading.
                    let scope = root.as_ref().map_or("main", |root| root.as_str()).to_owned();
                    let position = self.event(&id).await.index.unwrap().position().get();
                    self.marks.insert((sender, scope), position);
                }
                self.sent.push((id, root));
            }
            Step::Read { reader, event, private, scope } => {
                let reader = self.users[reader % self.users.len()].clone();
                let Some((event_id, root)) = self.sent.get(event % self.sent.len().max(1)) else {
                    return;
                };
                let thread = match (scope, root) {
                    (Scope::Unthreaded, _) => ReceiptThread::Unthreaded,
                    (Scope::Own, None) => ReceiptThread::Main,
                    (Scope::Own, Some(root)) => ReceiptThread::Thread(root.clone()),
                };
                let kind = if private { ReceiptType::ReadPrivate } else { ReceiptType::Read };
                let scope = thread.as_str().unwrap_or_default().to_owned();
                self.world.read(&self.room, &reader, kind, thread, event_id).await;
                let index = self.event(event_id).await.index.unwrap().position().get();
                let mark = self.marks.entry((reader, scope)).or_default();
                *mark = (*mark).max(index);
            }
            Step::Redact { event } => {
                if let Some((event_id, _)) = self.sent.get(event % self.sent.len().max(1)) {
                    self.world.redact(&self.room, &self.users[0], event_id).await;
                }
            }
            Step::Leave { user } => {
                // The creator stays, to redact and to let others in.
                let user_id = self.users[1 + user % 2].clone();
                if self.is_joined(&user_id).await {
                    self.world.rooms.leave(&self.room, &user_id, None).await.unwrap();
                }
            }
            Step::Join { user } => {
                let user_id = self.users[1 + user % 2].clone();
                if !self.is_joined(&user_id).await {
                    self.world.join(&self.room, &user_id).await;
                }
            }
        }
    }

    async fn event(&self, event_id: &OwnedEventId) -> std::sync::Arc<StoredEvent> {
        self.world.rooms.event_by_id(&self.room, event_id).await.unwrap().unwrap()
    }

    /// Goes through the whole timeline and counts one by one.
    async fn recount(&self, user_id: &OwnedUserId) -> UnreadTotals {
        let rooms = &self.world.rooms;
        let mut totals = UnreadTotals::default();
        let row = rooms.user_room(user_id, &self.room).await.unwrap().unwrap();
        let stretch = Stretch { after: TimelineToken::START, until: TimelineToken::END };
        let rows =
            rooms.timeline_page(&self.room, stretch, Direction::Forward, 10_000).await.unwrap();
        for (index, row_of) in rows {
            let event = rooms.event(&self.room, row_of.ordinal).await.unwrap();
            let content: Value = event.pdu.content_as().unwrap();
            let root = content["m.relates_to"]["event_id"].as_str();
            let scope = root.unwrap_or("main").to_owned();
            let mark = |scope: &str| {
                let key = (user_id.clone(), scope.to_owned());
                self.marks.get(&key).copied().unwrap_or_default()
            };
            let read = row.joined_at.get().max(mark("")).max(mark(&scope));
            let TimelineIndex::Live(position) = index else { panic!("backfilled") };
            let notifies = content["msgtype"] == "m.text"
                && event.pdu.sender() != user_id
                && position.get() > read;
            if !notifies {
                continue;
            }
            let mentions = &content["m.mentions"];
            let named =
                mentions["user_ids"].as_array().is_some_and(|ids| ids[0] == user_id.as_str());
            let alerted = mentions["room"] == true && event.pdu.sender() == self.users[0];
            let one = UnreadCounts { notifications: 1, highlights: u64::from(named || alerted) };
            match root {
                None => totals.main = totals.main.plus(one),
                Some(root) => {
                    let root = OwnedEventId::try_from(root).unwrap();
                    let counts = totals.threads.entry(root).or_default();
                    *counts = counts.plus(one);
                }
            }
        }
        totals
    }

    async fn check(&self) {
        for user_id in &self.users {
            if !self.is_joined(user_id).await {
                continue;
            }
            let counted = self.world.sync.unread(user_id, &self.room).await.unwrap();
            let recounted = self.recount(user_id).await;
            assert_eq!(counted, recounted, "{user_id}");
            // The same in sum to a sliding sync that begins anew, as it did before.
            for receipts in [false, true] {
                let mut body = window(0, 9);
                body["extensions"]["receipts"]["enabled"] = receipts.into();
                let answer = Phone::of(user_id, body).ask(&self.world).await;
                let told = |field: &str| room(&answer, &self.room)[field].as_u64().unwrap();
                let counts = (told("notification_count"), told("highlight_count"));
                let sum = recounted.sum();
                assert_eq!(counts, (sum.notifications, sum.highlights), "{user_id}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn counts_are_those_of_a_plain_recount(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new().await;
            for (number, step) in steps.into_iter().enumerate() {
                model.apply(step).await;
                if number % 5 == 4 {
                    model.check().await;
                }
            }
            model.check().await;
        });
    }
}

#[tokio::test]
async fn counts_come_with_their_event_and_split_by_thread_when_asked() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&bob)).await;
    let thread = world.text(&room, &alice, "root").await;
    let reply = json!({
        "msgtype": "m.text", "body": "reply @bob:x", "m.mentions": {"user_ids": ["@bob:x"]},
        "m.relates_to": {"rel_type": "m.thread", "event_id": thread},
    });
    world.send(&room, &alice, "m.room.message", reply).await;
    let ask = Ask::of(&bob).after(&first);
    let plain = world.ask(ask.clone()).await;
    assert_eq!(
        joined(&plain, &room)["unread_notifications"],
        json!({"notification_count": 2, "highlight_count": 1})
    );
    let filter = json!({"room": {"timeline": {"unread_thread_notifications": true}}});
    let split = world.ask(ask.filter(filter)).await;
    let section = joined(&split, &room);
    assert_eq!(
        section["unread_notifications"],
        json!({"notification_count": 1, "highlight_count": 0})
    );
    assert_eq!(
        section["unread_thread_notifications"][thread.as_str()],
        json!({"notification_count": 1, "highlight_count": 1})
    );
}
