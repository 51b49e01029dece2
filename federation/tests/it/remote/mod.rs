//! What local users do by way of other servers.

mod elsewhere;
mod ephemeral;
mod history;
mod invite;
mod join;
mod knock;
