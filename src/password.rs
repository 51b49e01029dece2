//! Where the command line gets passwords from.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use rand::{RngExt as _, distr::Alphanumeric};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// Characters of a generated password: 119 bits.
const GENERATED_LENGTH: usize = 20;

/// A password that nobody has chosen.
#[must_use]
pub fn generate() -> String {
    rand::rng().sample_iter(Alphanumeric).take(GENERATED_LENGTH).map(char::from).collect()
}

/// The first line of standard input.
pub fn from_stdin() -> io::Result<String> {
    read_line()
}

/// Asks for a password twice, without showing it.
pub fn prompt() -> io::Result<String> {
    if !io::stdin().is_terminal() {
        return Err(io::Error::other(
            "there is no terminal to ask on: use --password-stdin or --generate",
        ));
    }
    let first = ask("Password: ")?;
    if ask("Again: ")? == first {
        Ok(first)
    } else {
        Err(io::Error::other("the two passwords differ"))
    }
}

fn ask(question: &str) -> io::Result<String> {
    let mut terminal = io::stderr();
    write!(terminal, "{question}")?;
    terminal.flush()?;
    let before = tcgetattr(io::stdin())?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
    let answer = read_line();
    tcsetattr(io::stdin(), OptionalActions::Now, &before)?;
    writeln!(terminal)?;
    answer
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
