//! The server as a library: configuration, command line, wiring and listeners.
//!
//! The `hearth` binary is [`cli::main`]. Tests start the same server in process with [`start`].
//! This crate owns what spans the others: it opens the store, hands each crate its section of the
//! [`Config`], serves the router and shuts everything down in order. It knows nothing of rooms and
//! little of users.

pub mod admin;
mod background;
pub mod cli;
pub mod config;
mod demo;
mod gateways;
pub mod keyfile;
mod pages;
mod parts;
pub mod password;
mod serve;
mod start;
pub mod telemetry;
mod tls;
mod web;

pub use self::{
    config::{Config, ConfigError},
    parts::{OpenError, StartOptions},
    serve::ListenError,
    start::{RunningServer, StartError, start},
    tls::CertificateError,
};
