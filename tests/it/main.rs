//! The binary as an operator meets it: files, messages, signals, exit codes.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod command;
mod configuration;
mod demo;
mod encryption;
mod federation;
mod kills;
mod life;
mod media;
mod push;
mod reports;
mod tls;
mod users;
mod waiting;
