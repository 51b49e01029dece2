//! From a server's name to an address and a name for its certificate (SS "Resolving server names").
//!
//! Two halves: [`well_known`] says to which name a server delegates, if it does, which is then the name
//! in the `Host` header and in the certificate; [`locate`] finds the machines of that name, whatever
//! they are called. Addresses pass the [guard] after they are resolved.

pub mod dns;
pub mod guard;
pub mod locate;
mod srv;
pub mod well_known;

/// The ports that the specification names; others in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Of servers that name none.
    pub federation: u16,
    /// Where `.well-known` is.
    pub https: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { federation: 8448, https: 443 }
    }
}
