//! `hearth demo`: the real binary tells its story, and leaves nothing behind.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::command::{Home, stderr};

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
fn the_story_is_told_to_its_end() {
    let home = Home::new();
    let output = demo(&home).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", stderr(&output));
    let mut rest = text.as_str();
    for part in [
        "Two Hearth servers on this machine",
        "@alice:localhost:",
        "@bob:localhost:",
        "alice makes the room",
        "bob joins",
        "alice sees him join",
        "alice  Hello Bob!",
        "bob    sees it after",
        "alice  sees it after",
        "bob    reacts",
        "alice  takes that back",
        "bob    finds an empty message in its place",
        "bob's server stops",
        "bob's server starts again",
        "bob    sees it after",
        "bob    Yes. Nothing is lost.",
        "alice  sees it after",
        "Both servers hold the same state of the room",
        "their data is removed",
    ] {
        let Some(place) = rest.find(part) else { panic!("no {part:?} in its place in:\n{text}") };
        rest = &rest[place + part.len()..];
    }
    assert_eq!(stderr(&output), "");
    left_nothing(&home);
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
