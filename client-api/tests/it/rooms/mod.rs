//! Rooms: making them, being in them, sending, reading.

mod aggregations;
mod aliases;
mod concurrent;
mod context;
mod create;
mod directory;
mod event;
mod hierarchy;
mod initial_sync;
mod joined;
mod members;
mod membership;
mod messages;
mod redact;
mod relations;
mod restricted;
mod send;
mod state;
mod summary;
mod threads;
mod timestamp;
mod upgrade;
mod versions;
mod visibility;
