//! The server as a library: configuration, command line, wiring and listeners.
//!
//! The `hearth` binary is [`cli::main`]. Tests start the same server in process with [`start`].
//! This crate owns what spans the others: it opens the store, hands each crate its section of the
//! [`Config`], serves the router and shuts everything down in order. It knows nothing of Matrix.

pub mod config;
pub mod keyfile;
mod serve;
mod start;
pub mod telemetry;

pub use self::{
    config::{Config, ConfigError},
    start::{RunningServer, StartError, StartOptions, start},
};
