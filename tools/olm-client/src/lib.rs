//! A Matrix client's half of end-to-end encryption: one device's keys, its Olm sessions with other devices
//! and its Megolm sessions in rooms (vodozemac), and the requests that they take (Client-Server API,
//! "End-to-End Encryption").
//!
//! A [`Device`] has no connection and no token. Whoever holds it hands it a [`Homeserver`] to ask, and each
//! answer of `/sync`; it uploads and replaces its keys, follows other users' lists of devices, shares
//! room keys, encrypts and decrypts.
//!
//! It is for the demonstration and for tests, not for people's secrets: everything is in memory and goes
//! with it, and any device whose keys verify is trusted, for there is no cross-signing here.

mod account;
mod device;
mod device_lists;
mod error;
mod homeserver;
mod megolm;
mod olm;
mod rooms;
mod signed;
mod to_device;

#[cfg(test)]
mod testing;

pub use self::{
    account::Account,
    device::{Device, Letter, ReadEvent, Update},
    error::{Error, Undecryptable},
    homeserver::Homeserver,
    to_device::ToDeviceRequest,
};

/// The algorithm of to-device messages (Client-Server API, "Messaging Algorithms").
pub const OLM: &str = "m.olm.v1.curve25519-aes-sha2";
/// The algorithm of rooms.
pub const MEGOLM: &str = "m.megolm.v1.aes-sha2";
/// The algorithm of one-time and fallback keys.
pub(crate) const SIGNED_CURVE25519: &str = "signed_curve25519";
