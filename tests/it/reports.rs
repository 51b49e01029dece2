//! `hearth reports`: the operator reads what users report.

use hearth_testkit::Client;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::command::{Home, Server, block_on};

/// Logs alice in, makes a room with a message in it, and reports both; the message's event ID.
fn report(server: &Server) -> String {
    block_on(async {
        let client = Client::new(&server.base());
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": "password",
        });
        let text = |answer: &Value, field: &str| {
            answer.get(field).and_then(Value::as_str).unwrap().to_owned()
        };
        let answer = client.post_ok("/_matrix/client/v3/login", body).await;
        let client = client.with_token(&text(&answer, "access_token"));
        let room = client.post_ok("/_matrix/client/v3/createRoom", json!({})).await;
        let room = text(&room, "room_id");
        let path = |rest: &str| format!("/_matrix/client/v3/rooms/{room}/{rest}");
        let message = json!({ "msgtype": "m.text", "body": "something rude" });
        let sent = client.put_ok(&path("send/m.room.message/1"), message).await;
        let event = text(&sent, "event_id");
        let reason = json!({ "reason": "look\u{1b}[2J here" });
        client.post_ok(&path("report"), reason.clone()).await;
        client.post_ok(&path(&format!("report/{event}")), reason).await;
        event
    })
}

#[test]
fn the_operator_reads_and_removes_reports() {
    let home = Home::new();
    let server = home.serve();
    home.run_with_input(&["user", "create", "alice", "--password-stdin"], "password\n");
    assert_eq!(home.run_ok(&["reports", "list"]), "no reports\n");
    let event = report(&server);
    let output = home.run_ok(&["reports", "list"]);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 2, "{output}");
    assert!(output.contains(&format!("@alice:localhost reports event {event} in !")), "{output}");
    assert!(output.contains("@alice:localhost reports room !"), "{output}");
    let output = home.run_ok(&["reports", "show", "2"]);
    assert!(output.contains("something rude") && output.contains("m.room.message"), "{output}");
    assert!(!output.contains('\u{1b}'), "strangers' text does nothing to the terminal: {output:?}");
    server.stop(Signal::TERM);

    // The same while no server runs.
    let output = home.run_ok(&["reports", "list", "--before", "2"]);
    assert_eq!(output.lines().count(), 1, "{output}");
    assert!(home.run_ok(&["reports", "remove", "1"]).contains("report 1 is removed"));
    assert_eq!(home.run_ok(&["reports", "list"]).lines().count(), 1);
    let error = home.run_err(&["reports", "show", "1"]);
    assert!(error.contains("there is no report 1"), "{error}");
}
