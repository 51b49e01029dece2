//! Every row that this crate owns.

use crate::{destinations::DESTINATIONS, keys};

/// All of them, for the store's opening. Each module declares its own.
pub const KEYSPACES: &[&str] =
    &[DESTINATIONS.name(), keys::ANSWERS.name(), keys::KEYS.name(), keys::OWN_KEYS.name()];
