use crate::command::Home;

#[test]
fn the_example_passes_the_check() {
    let home = Home::new();
    home.write("hearth.toml", &home.run_ok(&["config", "example"]));
    assert!(home.run_ok(&["config", "check"]).contains("hearth.toml is fine"));
}

#[test]
fn the_check_names_the_nearest_key_and_fails() {
    let home = Home::new();
    home.write("hearth.toml", "[server]\nnmae = \"example.org\"\n");
    let error = home.run_err(&["config", "check"]);
    assert!(error.contains("`server.nmae`; did you mean `server.name`?"), "{error}");
    // The server itself says the same, and makes nothing.
    let error = home.run_err(&[]);
    assert!(error.contains("did you mean `server.name`?"), "{error}");
    assert!(!home.path("data").exists());
}

#[test]
fn a_named_file_must_exist() {
    let home = Home::new();
    let error = home.run_err(&["--config", "other.toml"]);
    assert!(error.contains("there is no other.toml"), "{error}");
    assert!(!home.path("other.toml").exists());
}

#[test]
fn the_check_does_not_show_secrets() {
    let home = Home::new();
    home.write("hearth.toml", "[users]\nregistration_shared_secret = \"swordfi\"\n");
    let error = home.run_err(&["config", "check"]);
    assert!(error.contains("users.registration_shared_secret"), "{error}");
    assert!(!error.contains("swordfi"), "{error}");
}
