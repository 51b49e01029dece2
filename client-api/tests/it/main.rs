//! The client-server API over the real server and the real engine, spoken to over HTTP.
//!
//! What is expected comes from the specification (v1.19). The modules mirror the endpoints. Nothing
//! here waits by sleeping: a long-poll is how a test waits for something to happen.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test's helper may fail as loudly as the test"
)]
#![expect(clippy::similar_names, reason = "rooms have thread roots, and administrators see rooms")]

mod support;

mod account;
mod encryption;
mod personal;
mod push;
mod rooms;
mod sync;

mod bad_input;
mod calls;
mod cross_signing;
mod delayed_events;
mod discovery;
mod engines;
mod front;
mod hostile_media;
mod media;
mod previews;
mod remote_media;
mod reporting;
mod thirdparty;
mod thumbnails;
mod to_device;
mod websocket;
