use hearth_testkit::Client;
use http::StatusCode;
use rustix::process::Signal;
use serde_json::json;

use crate::command::{Home, Server};

/// The status of logging in.
fn login(server: &Server, user: &str, password: &str) -> StatusCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user },
            "password": password,
        });
        Client::new(&server.base()).post("/_matrix/client/v3/login", body).await.0
    })
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
