//! The binary as an operator meets it: files, messages, signals, exit codes.

mod command;
mod configuration;
mod life;
mod users;
