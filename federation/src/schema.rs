//! Every row that this crate owns.

use crate::destinations::DESTINATIONS;

/// All of them, for the store's opening. Each module declares its own.
pub const KEYSPACES: &[&str] = &[DESTINATIONS.name()];
