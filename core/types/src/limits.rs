//! Limits that the specification sets, in bytes unless the name says otherwise.

/// A whole PDU in canonical form, signatures included (CS "Size limits").
pub const MAX_PDU_BYTES: usize = 65_536;
/// `sender`, `room_id`, `state_key`, `type`, `event_id`, user and room identifiers, aliases.
pub const MAX_ID_BYTES: usize = 255;
/// Auth events named by one PDU (SS "PDUs").
pub const MAX_AUTH_EVENTS: usize = 10;
/// Previous events named by one PDU (SS "PDUs").
pub const MAX_PREV_EVENTS: usize = 20;
/// Greatest integer that canonical JSON admits, 2^53 − 1 (Appendices "Canonical JSON").
pub const MAX_CANONICAL_INT: i64 = (1 << 53) - 1;
/// Greatest depth of an event; a parent at this depth gives its child the same (CS "Types of room events").
pub const MAX_DEPTH: u64 = (1 << 53) - 1;
