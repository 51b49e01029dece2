use std::collections::BTreeSet;

use hearth_rooms::{
    CreateRoomOptions, Draft, MemberProfile, RemoteMembership, RemoteRooms as _, schema::Standing,
};
use hearth_storage::{Listener, Topic};
use hearth_types::StreamPosition;
use http::StatusCode;
use ruma::{EventId, OwnedUserId, events::TimelineEventType, owned_user_id, server_name, user_id};
use serde_json::{Value, json, value::to_raw_value};
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    remote::Remote,
    testing::{Network, Server},
};

/// How long something that needs no waiting may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two servers of which neither tells the other anything by itself.
struct Bench {
    network: Network,
    us: Server,
    them: Server,
    bob: OwnedUserId,
}

/// One of their events as it is sent.
struct Sent {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    json: Box<RawValue>,
}

impl Bench {
    async fn new() -> Self {
        let network = Network::default();
        let us = Server::open("us.example", &network).await;
        let them = Server::open("them.example", &network).await;
        Self { network, us, them, bob: owned_user_id!("@bob:them.example") }
    }

    /// A room of ours that a user of theirs is in.
    async fn room(&self) -> OwnedRoomId {
        let alice = user_id!("@alice:us.example");
        let options = CreateRoomOptions { public: true, ..CreateRoomOptions::default() };
        let room_id = self.us.federation.rooms().create_room(alice, options).await.unwrap();
        let wish = RemoteMembership {
            room_id: room_id.clone(),
            user_id: self.bob.clone(),
            profile: MemberProfile::default(),
            reason: None,
            via: vec![alice.server_name().to_owned()],
        };
        Remote::new(self.them.federation.clone()).join(wish).await.unwrap();
        room_id
    }

    /// A message of theirs, of which we do not hear yet.
    async fn say(&self, room_id: &OwnedRoomId) -> Sent {
        let rooms = self.them.federation.rooms();
        let content = to_raw_value(&json!({ "body": "hello", "msgtype": "m.text" })).unwrap();
        let draft = Draft::message(self.bob.clone(), TimelineEventType::RoomMessage, content);
        let event_id = rooms.send(room_id, draft, None).await.unwrap();
        let event = rooms.event_by_id(room_id, &event_id).await.unwrap().unwrap();
        let json = String::from_utf8(event.pdu.json().to_vec()).unwrap();
        Sent { room_id: room_id.clone(), event_id, json: RawValue::from_string(json).unwrap() }
    }

    /// How one of their events stands with us.
    async fn standing(&self, sent: &Sent) -> Option<Standing> {
        let rooms = self.us.federation.rooms();
        let event = rooms.event_by_id(&sent.room_id, &sent.event_id).await.unwrap();
        event.map(|event| event.header.standing)
    }
}

fn transaction(origin: &ServerName, id: &str, sent: &[&Sent]) -> Transaction {
    let pdus = sent.iter().map(|sent| sent.json.clone()).collect();
    Transaction { origin: origin.to_owned(), id: id.to_owned(), pdus, edus: Vec::new() }
}

/// Does an answer say that this event was taken?
fn is_taken(answer: &Bytes, event_id: &EventId) -> bool {
    let answer: Value = serde_json::from_slice(answer).unwrap();
    answer["pdus"][event_id.as_str()] == json!({})
}

/// Where commits of a room ended in the stream.
#[derive(Debug, Default)]
struct Commits(Mutex<BTreeSet<StreamPosition>>);

impl Listener for Commits {
    fn changed(&self, _: &Topic, position: StreamPosition) {
        self.0.lock().insert(position);
    }
}

#[tokio::test]
async fn the_events_of_a_transaction_are_one_commit_for_each_room() {
    let bench = Bench::new().await;
    let rooms = [bench.room().await, bench.room().await];
    // In turns, as a server sends what its users say.
    let mut sent = Vec::with_capacity(MAX_PDUS);
    for number in 0..MAX_PDUS {
        sent.push(bench.say(&rooms[number % rooms.len()]).await);
    }
    let notifier = bench.us.federation.store().notifier();
    let commits = rooms.each_ref().map(|room_id| {
        let commits = Arc::new(Commits::default());
        let listener: Arc<dyn Listener> = Arc::<Commits>::clone(&commits);
        notifier.subscribe(&Topic::new(room_id.as_str()), &listener);
        commits
    });

    let all: Vec<_> = sent.iter().collect();
    let transaction = transaction(bench.bob.server_name(), "one", &all);
    let answer = Transactions::default().run(&bench.us.federation, transaction).await.unwrap();
    for sent in &sent {
        assert!(is_taken(&answer, &sent.event_id), "{answer:?}");
        assert_eq!(bench.standing(sent).await, Some(Standing::Accepted));
    }
    for commits in commits {
        assert_eq!(commits.0.lock().len(), 1);
    }
}

#[tokio::test]
async fn beyond_the_bytes_in_flight_a_transaction_is_refused_and_can_be_repeated() {
    let bench = Bench::new().await;
    let us = &bench.us.federation;
    let (slow, quick) = (bench.room().await, bench.room().await);
    let before = bench.say(&slow).await;
    let late = bench.say(&slow).await;
    let surplus = bench.say(&quick).await;
    let (them, third) = (bench.bob.server_name(), server_name!("third.example"));
    let inner = TransactionsInner { max_bytes: late.json.get().len() + 100, ..Default::default() };
    let transactions = Transactions(Arc::new(inner));
    let bytes = || transactions.0.in_flight.lock().bytes;

    // What comes before one event is asked for, and not answered yet.
    bench.network.hold("/get_missing_events/");
    let working = transactions.join(us, transaction(them, "late", &[&late])).unwrap();
    assert_eq!(bytes(), late.json.get().len());
    let refused = transactions.run(us, transaction(third, "surplus", &[&surplus])).await;
    let error = refused.unwrap_err();
    assert_eq!(
        (error.status(), error.errcode(), error.retry_after()),
        (StatusCode::TOO_MANY_REQUESTS, Some("M_LIMIT_EXCEEDED"), Some(BUSY_RETRY_AFTER))
    );
    assert_eq!(bench.standing(&surplus).await, None);
    // Neither what fits nor what repeats the one at work is surplus.
    let edu = json!({ "edu_type": "org.example.none", "content": {} });
    let edus = vec![Raw::from_json_string(edu.to_string()).unwrap()];
    let small = Transaction { edus, ..transaction(third, "small", &[]) };
    transactions.run(us, small).await.unwrap();
    let repeated = transactions.join(us, transaction(them, "late", &[&late])).unwrap();

    bench.network.let_go();
    for work in [working, repeated] {
        let answer = timeout(PATIENCE, work).await.unwrap().unwrap();
        assert!(is_taken(&answer, &late.event_id), "{answer:?}");
    }
    let given_back = async {
        while bytes() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, given_back).await.unwrap();
    assert!(transactions.0.in_flight.lock().origins.is_empty());
    // The refusal was not remembered as the transaction's answer.
    let answer = transactions.run(us, transaction(third, "surplus", &[&surplus])).await.unwrap();
    assert!(is_taken(&answer, &surplus.event_id), "{answer:?}");
    for sent in [&before, &late, &surplus] {
        assert_eq!(bench.standing(sent).await, Some(Standing::Accepted));
    }
}
