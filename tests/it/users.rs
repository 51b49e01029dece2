use hearth_testkit::{Client, encode};
use http::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::command::{Home, Server, block_on};

/// The answer to logging in.
fn try_login(server: &Server, user: &str, password: &str) -> (StatusCode, Value) {
    let body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
    });
    block_on(async { Client::new(&server.base()).post("/_matrix/client/v3/login", body).await })
}

/// The status of logging in.
fn login(server: &Server, user: &str, password: &str) -> StatusCode {
    try_login(server, user, password).0
}

/// A client that is logged in.
fn client(server: &Server, user: &str, password: &str) -> Client {
    let (status, answer) = try_login(server, user, password);
    assert_eq!(status, StatusCode::OK, "{answer}");
    let token = answer.get("access_token").and_then(Value::as_str).unwrap();
    Client::new(&server.base()).with_token(token)
}

fn generated_password(output: &str) -> String {
    output.lines().find_map(|line| line.strip_prefix("Password: ")).unwrap().to_owned()
}

#[test]
fn users_are_made_while_the_server_runs() {
    let home = Home::new();
    let server = home.serve();
    let output = home.run_ok(&["user", "create", "alice", "--generate"]);
    assert!(output.contains("@alice:localhost created"), "{output}");
    let password = generated_password(&output);
    assert_eq!(login(&server, "alice", &password), StatusCode::OK);
    assert_eq!(login(&server, "alice", "something else"), StatusCode::FORBIDDEN);

    let log = server.stop(Signal::TERM);
    assert!(!log.contains(&password), "the log shows the password");
}

#[test]
fn users_are_made_and_changed_while_it_does_not() {
    let home = Home::new();
    home.serve().stop(Signal::TERM);
    home.run_with_input(&["user", "create", "bob", "--password-stdin"], "the first one\n");
    home.run_with_input(
        &["user", "password", "@bob:localhost", "--password-stdin"],
        "the second\n",
    );
    home.run_ok(&["user", "create", "carol", "--admin", "--generate"]);
    home.run_ok(&["user", "deactivate", "carol"]);

    let server = home.serve();
    assert_eq!(login(&server, "bob", "the first one"), StatusCode::FORBIDDEN);
    assert_eq!(login(&server, "bob", "the second"), StatusCode::OK);
    let error = home.run_err(&["user", "create", "carol", "--generate"]);
    assert!(error.contains("taken"), "{error}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let home = Home::new();
    let error = home.run_err(&["user", "create", "alice", "--generate"]);
    assert!(error.contains("start the server once"), "{error}");
    home.serve().stop(Signal::TERM);
    let error = home.run_err(&["user", "create", "alice"]);
    assert!(error.contains("--password-stdin"), "{error}");
    let error = home.run_err(&["user", "create", "Not a name", "--generate"]);
    assert!(error.contains("not a"), "{error}");
    let error = home.run_err(&["user", "password", "@alice:elsewhere", "--generate"]);
    assert!(error.contains("not a user of localhost"), "{error}");
    let error = home.run_err(&["user", "password", "nobody", "--generate"]);
    assert!(error.contains("no such user"), "{error}");
}

#[test]
fn a_deactivated_user_has_left_all_rooms_and_is_logged_out() {
    let home = Home::new();
    let server = home.serve();
    for user in ["alice", "bob"] {
        home.run_with_input(&["user", "create", user, "--password-stdin"], "password\n");
    }
    let (alice, bob) = (client(&server, "alice", "password"), client(&server, "bob", "password"));
    let room_id = block_on(async {
        let room = json!({ "preset": "public_chat" });
        let room_id = alice.post_ok("/_matrix/client/v3/createRoom", room).await["room_id"]
            .as_str()
            .unwrap()
            .to_owned();
        bob.post_ok(&format!("/_matrix/client/v3/join/{}", encode(&room_id)), json!({})).await;
        room_id
    });
    home.run_ok(&["user", "deactivate", "bob"]);
    // Twice is the same as once.
    home.run_ok(&["user", "deactivate", "bob"]);

    // Connections belong to a runtime: these are new ones.
    let again = |client: &Client| Client::new(&server.base()).with_token(client.token().unwrap());
    let (alice, bob) = (again(&alice), again(&bob));
    block_on(async {
        let path = format!("/_matrix/client/v3/rooms/{}/joined_members", encode(&room_id));
        let members = alice.get_ok(&path).await;
        assert!(members["joined"].get("@bob:localhost").is_none(), "{members}");
        assert!(members["joined"].get("@alice:localhost").is_some(), "{members}");
        let (status, answer) = bob.get("/_matrix/client/v3/account/whoami").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    });
    assert_eq!(login(&server, "bob", "password"), StatusCode::FORBIDDEN);
}
