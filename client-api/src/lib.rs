//! The client-server API of the Matrix specification (v1.19): HTTP, long-poll sync and WebSocket.
//!
//! A surface: each handler extracts a request, makes a call into the domain crates, and maps the
//! answer. Handlers are grouped by ruma's module names under [`routes`]; domain errors become the
//! specification's codes in `error.rs` and nowhere else. Nothing here holds state of its own but the
//! handles in [`ClientApi`].

mod config;
mod delayed;
mod echoes;
mod error;
mod guests;
mod router;
pub mod routes;
mod state;
mod uia;

pub use self::{
    config::{AliasCreation, CallsConfig, ClientConfig},
    error::ApiError,
    guests::GuestKeeper,
    router::router,
    state::{ClientApi, LocalUser},
};
