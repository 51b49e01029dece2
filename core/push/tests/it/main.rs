//! Push over the real log, rooms and users, and a gateway in memory.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod held;
mod pace;
mod passed_over;
mod progress;
mod world;
