//! Every row that this crate owns.

use crate::{
    destinations::DESTINATIONS, inbound, keys, outbound::OUTBOUND_CURSORS, remote::PARTIAL_JOINS,
};

/// All of them, for the store's opening. Each module declares its own.
pub const KEYSPACES: &[&str] = &[
    DESTINATIONS.name(),
    inbound::ANSWERED.name(),
    inbound::ANSWERED_ORDER.name(),
    inbound::KEPT_EDUS.name(),
    inbound::KEPT_EDU_COUNTS.name(),
    inbound::HOLES.name(),
    OUTBOUND_CURSORS.name(),
    PARTIAL_JOINS.name(),
    keys::ANSWERS.name(),
    keys::KEYS.name(),
    keys::OWN_KEYS.name(),
];
