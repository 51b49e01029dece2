//! Rate limits.

use std::net::IpAddr;

use ruma::UserId;

use crate::MatrixError;

/// A class of endpoints that share limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Login, registration and what else guesses at secrets.
    Login,
    /// Events sent into rooms.
    Message,
    /// Rooms created, joined and invited to.
    Membership,
    /// Everything else that the specification marks as rate-limited.
    General,
}

/// Counts what users and addresses spend. Its memory is bounded by `max_tracked`.
#[derive(Debug)]
pub struct Limiter {}

impl Limiter {
    /// Spends one request of the user's; the error is 429 `M_LIMIT_EXCEEDED` with the time to wait.
    pub fn charge_user(&self, class: Class, user_id: &UserId) -> Result<(), MatrixError> {
        _ = (class, user_id);
        todo!()
    }

    /// Spends one request of the address's.
    pub fn charge_address(&self, class: Class, address: IpAddr) -> Result<(), MatrixError> {
        _ = (class, address);
        todo!()
    }
}
