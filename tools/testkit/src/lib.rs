//! Test support: the real server in this process, on a random port, with a real engine in a folder of
//! its own ([`TestServer`]), a small HTTP client that speaks JSON ([`Client`], [`TestUser`]), and a network
//! in memory over which servers federate ([`Network`]), real ones and scripted ones ([`Peer`]). [`ClientKey`]
//! signs as clients do; a [`PushGateway`] takes what is pushed; a [`Correspondent`] talks encrypted, and [`conversations`] are what such users do on one
//! server or across two. What stands below the surfaces, without HTTP, is opened by `hearth-testbed`.
//!
//! Everything here panics with the answer in the message when the server does not do what a test
//! takes for granted; what a test is *about* goes through [`Client::get`] and its siblings, which
//! return the status and the body.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "test support fails by panicking, that is its purpose"
)]

mod client;
pub mod conversations;
mod encrypted;
mod gateway;
mod keys;
mod network;
pub mod peer;
mod server;
mod user;

pub use self::{
    client::{Client, Response, encode},
    encrypted::Correspondent,
    gateway::PushGateway,
    keys::ClientKey,
    network::{Fate, Network, Passage},
    peer::Peer,
    server::{TestServer, TestServerBuilder},
    user::TestUser,
};
