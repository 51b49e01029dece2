//! What local users do by way of other servers.

mod clients;
mod elsewhere;
mod ephemeral;
mod history;
mod invite;
mod join;
mod knock;
mod partial;
mod second;
mod signatures;
