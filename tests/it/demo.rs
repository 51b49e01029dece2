//! `hearth demo`: the real binary tells its story, and leaves nothing behind.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::command::Home;

/// The command, with its temporary files in a folder that can be looked at.
fn demo(home: &Home) -> Command {
    let mut command = home.command(&["demo"]);
    fs::create_dir(home.path("temporary")).unwrap();
    command.env("TMPDIR", home.path("temporary"));
    command
}

#[track_caller]
fn left_nothing(home: &Home) {
    assert_eq!(fs::read_dir(home.path("temporary")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(home.path(".")).unwrap().count(), 1);
}

#[test]
fn it_can_be_interrupted() {
    let home = Home::new();
    let mut child = demo(&home).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("has registered") {
        assert_ne!(output.read_line(&mut text).unwrap(), 0, "{text}");
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    output.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    assert!(text.contains("their data is removed"), "{text}");
    assert!(!text.contains("Both servers hold"), "{text}");
    left_nothing(&home);
}
