use rustix::process::Signal;

use crate::command::{Home, mode};

#[test]
fn the_first_start_makes_everything_and_says_what_to_do() {
    let home = Home::new();
    let server = home.serve();
    let greeting = &server.greeting;
    assert!(server.base().starts_with("http://127.0.0.1:"), "{greeting}");
    assert!(greeting.contains("user create NAME"), "{greeting}");
    assert!(greeting.contains("hearth.toml (written just now"), "{greeting}");

    assert_eq!(
        std::fs::read_to_string(home.path("hearth.toml")).unwrap(),
        home.run_ok(&["config", "example"])
    );
    assert_eq!(mode(&home.path("hearth.toml")), 0o600);
    assert_eq!(mode(&home.path("data")), 0o700);
    assert_eq!(mode(&home.path("data/signing.key")), 0o600);
    assert_eq!(mode(&home.path("data/admin.sock")), 0o600);
    server.stop(Signal::TERM);
    assert!(!home.path("data/admin.sock").exists());
}

#[test]
fn starts_again_after_any_end_with_the_same_key() {
    let home = Home::new();
    home.serve().stop(Signal::INT);
    let key = std::fs::read(home.path("data/signing.key")).unwrap();
    home.serve().kill();
    let server = home.serve();
    assert!(!server.greeting.contains("written just now"), "{}", server.greeting);
    assert_eq!(std::fs::read(home.path("data/signing.key")).unwrap(), key);
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let home = Home::new();
    let _server = home.serve();
    let error = home.run_err(&[]);
    assert!(error.contains("another process has the store open"), "{error}");
}

#[test]
fn another_name_is_refused() {
    let home = Home::new();
    home.serve().stop(Signal::TERM);
    let output = home.command(&[]).env("HEARTH_SERVER__NAME", "example.org").output().unwrap();
    assert!(!output.status.success());
    let error = crate::command::stderr(&output);
    assert!(error.contains("belongs to localhost"), "{error}");
}

#[test]
fn a_lost_key_is_replaced_only_when_asked() {
    let home = Home::new();
    home.serve().stop(Signal::TERM);
    std::fs::remove_file(home.path("data/signing.key")).unwrap();
    let error = home.run_err(&[]);
    assert!(error.contains("signing.key is missing"), "{error}");
    assert!(!home.path("data/signing.key").exists());
    home.serve_with(&["--replace-lost-key"]).stop(Signal::TERM);
    home.serve().stop(Signal::TERM);
}

#[test]
fn an_address_in_use_is_named() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = home.command(&[]).env("HEARTH_LISTEN__ADDRESSES", &address).output().unwrap();
    assert!(!output.status.success());
    let error = crate::command::stderr(&output);
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
}
