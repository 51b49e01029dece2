//! `GET /sync`, and simplified sliding sync.

mod counts;
mod delivery;
mod echoes;
mod event_stream;
mod filters;
mod incremental;
mod initial;
mod lazy_members;
mod leaves;
mod limited;
mod long_poll;
mod restart;
mod rooms_asked_into;
mod sliding;
mod state_after;
mod summary;
