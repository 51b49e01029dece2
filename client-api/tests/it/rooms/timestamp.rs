//! `GET /v1/rooms/{roomId}/timestamp_to_event`.

use std::{sync::Arc, time::Duration};

use hearth_testkit::TestServer;
use hearth_types::ManualClock;
use serde_json::json;

use crate::support::{at_v1, refused};

const START_MS: u64 = 1_800_000_000_000;

#[tokio::test]
async fn finds_the_nearest_in_a_direction() {
    let clock = Arc::new(ManualClock::new(START_MS));
    let server = TestServer::builder().clock(Arc::clone(&clock) as _).start().await;
    let alice = server.register("alice").await;
    let zoe = server.register("zoe").await;
    let room = alice.create_public_room().await;
    let mut events = Vec::new();
    for n in 0..3 {
        clock.advance(Duration::from_mins(1));
        events.push(alice.send_text(&room, &n.to_string()).await);
    }
    let path = |ts: u64, dir: &str| at_v1(&room, format!("timestamp_to_event?ts={ts}&dir={dir}"));
    let minute = |n: u64| START_MS + n * 60_000;
    for (ts, dir, index) in [
        (minute(1), "f", 0),
        (minute(1), "b", 0),
        (minute(1) + 1, "f", 1),
        (minute(2) + 59_999, "b", 1),
        (minute(9), "b", 2),
    ] {
        let found = alice.get_ok(&path(ts, dir)).await;
        let at_ms = minute(index + 1);
        let expected = json!({ "event_id": events[usize::try_from(index).unwrap()], "origin_server_ts": at_ms });
        assert_eq!(found, expected, "{dir} from {ts}");
    }
    refused(alice.get(&path(minute(9), "f")).await, 404, "M_NOT_FOUND");
    refused(alice.get(&path(1, "b")).await, 404, "M_NOT_FOUND");
    let (status, answer) = zoe.get(&path(minute(1), "f")).await;
    assert!(status == 403 || status == 404, "{answer}");
    for query in ["", "?ts=1", "?dir=f", "?ts=x&dir=f", "?ts=1&dir=up"] {
        let (status, answer) = alice.get(&at_v1(&room, format!("timestamp_to_event{query}"))).await;
        assert_eq!(status, 400, "{query}: {answer}");
    }
}
