//! `hearth demo`: the real binary tells its story, and leaves nothing behind.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::command::{Home, stderr};

/// What is said, by whom, and who reads it.
const SAID: [(&str, &str, &str); 5] = [
    ("alice", "Hello Bob! Does this reach you?", "bob"),
    ("bob", "It does, and our servers had never met before.", "alice"),
    ("alice", "The key is under the mat. Oh, wrong room.", "bob"),
    ("alice", "Are you still there?", "bob"),
    ("bob", "Yes. Nothing is lost.", "alice"),
];

/// Before what both servers hold of what was said last.
const HELD: &str = "both servers hold ";

/// The command, with its temporary files in a folder that can be looked at.
fn demo(home: &Home) -> Command {
    let mut command = home.command(&["demo"]);
    fs::create_dir(home.path("temporary")).unwrap();
    command.env("TMPDIR", home.path("temporary"));
    command
}

/// Starts it and waits until it has said this; what it said so far, and the rest to be read.
fn told_until(home: &Home, part: &str) -> (Child, String, impl std::io::Read) {
    let mut child = demo(home).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains(part) {
        assert_ne!(output.read_line(&mut text).unwrap(), 0, "{text}");
    }
    (child, text, output)
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
        "alice  gives bob's device the room key",
        "alice  Hello Bob!",
        "bob    reads",
        "bob    gives alice's device the room key",
        "alice  reads",
        "bob    reacts",
        "alice  takes that back",
        "bob    finds an empty message in its place",
        "bob's server stops",
        "bob's server starts again",
        "bob    reads",
        "bob    Yes. Nothing is lost.",
        "alice  reads",
        "Both servers hold the same state of the room",
        "their data is removed",
    ] {
        let Some(place) = rest.find(part) else { panic!("no {part:?} in its place in:\n{text}") };
        rest = &rest[place + part.len()..];
    }
    check_conversation(&text);
    assert_eq!(stderr(&output), "");
    left_nothing(&home);
}

/// What is said is read as it was said, and the servers hold something else.
fn check_conversation(text: &str) {
    let lines: Vec<_> = text.lines().collect();
    let mut ciphertexts = Vec::new();
    for (from, said, to) in SAID {
        let find = |what: &str, from: usize| {
            let found = lines.iter().skip(from).position(|line| line.contains(what));
            from + found.unwrap_or_else(|| panic!("no {what:?} in:\n{text}"))
        };
        let spoken = find(&format!("s  {from:6} {said}"), 0);
        let read = find(&format!("s  {to:6} reads \"{said}\" after "), spoken);
        let ciphertext = lines.get(read + 1).and_then(|line| line.trim().strip_prefix(HELD));
        let ciphertext = ciphertext.unwrap_or_else(|| panic!("not what the servers hold:\n{text}"));
        assert!(ciphertext.starts_with("Aw"), "no Megolm message: {ciphertext}");
        // Shorter words may come about by chance.
        let mut words = said.split_whitespace().filter(|word| word.len() > 4);
        assert!(words.all(|word| !ciphertext.contains(word)), "{ciphertext}");
        assert!(!ciphertexts.contains(&ciphertext), "{text}");
        ciphertexts.push(ciphertext);
    }
}

/// Every file below a folder that can be read, which sockets cannot.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, mut found): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    found.retain(|path| path.is_file());
    found.extend(folders.iter().flat_map(|folder| files(folder)));
    found
}

/// Stops the demonstration in its course, and looks for what was said in all that the servers have written.
#[test]
fn the_servers_write_nothing_of_what_is_said() {
    let home = Home::new();
    let (mut child, text, mut rest) = told_until(&home, "bob's server stops");
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::STOP).unwrap();
    waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
    let read = |path: &PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    let written: Vec<_> = files(&home.path("temporary")).iter().map(read).collect();
    kill_process(pid, Signal::CONT).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let mut log = String::new();
    rest.read_to_string(&mut log).unwrap();
    assert!(child.wait().unwrap().success(), "{text}{log}");
    let holders = |what: &str| written.iter().filter(|file| file.contains(what)).count();
    // The beginnings of what the story shows are found on both sides; so this finds what is there.
    let held = text.lines().filter_map(|line| line.trim().strip_prefix(HELD)?.split_once('…'));
    for (beginning, _) in held.take(2) {
        assert!(holders(beginning) >= 2, "{beginning}");
    }
    for (_, said, _) in SAID {
        assert_eq!(holders(said), 0, "{said}");
    }
}

#[test]
fn it_can_be_interrupted() {
    let home = Home::new();
    let (mut child, mut text, mut rest) = told_until(&home, "has registered");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    rest.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    assert!(text.contains("their data is removed"), "{text}");
    assert!(!text.contains("Both servers hold"), "{text}");
    left_nothing(&home);
}
