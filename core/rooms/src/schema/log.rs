//! What the log says of rooms.

use bytes::Bytes;

use super::EventOrdinal;

/// The kind of the log entries that announce a room's event: the topic is the room, the payload
/// [`log_payload`].
pub const LOG_ROOM_EVENT: u8 = 1;

/// The kind of the log entries that announce an invitation, a knock or its end in a room that this server is not
/// in ([`OUT_OF_BAND`](super::OUT_OF_BAND)): the topic is the user, the payload the room's ID.
pub const LOG_OUT_OF_BAND: u8 = 2;

/// Who passes an event of the log on to other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// This server: it made the event, or admitted it into the room (SS "Joining Rooms").
    Here,
    /// The server that it came from.
    Elsewhere,
    /// The same; a user of this server comes to the room by it, of whose devices this server tells the
    /// others (SS "Device Management").
    Arrival,
}

/// The payload of a [`LOG_ROOM_EVENT`] entry: the event's ordinal, then a byte if the event came from
/// another server, which passes it on itself.
#[must_use]
pub fn log_payload(ordinal: EventOrdinal, forwarding: Forwarding) -> Bytes {
    let mut payload = ordinal.to_be_bytes().to_vec();
    match forwarding {
        Forwarding::Here => {}
        Forwarding::Elsewhere => payload.push(1),
        Forwarding::Arrival => payload.push(2),
    }
    payload.into()
}

/// The ordinal in a [`log_payload`].
#[must_use]
pub fn log_ordinal(payload: &[u8]) -> Option<EventOrdinal> {
    payload.first_chunk().copied().map(EventOrdinal::from_be_bytes)
}

/// Who passes the event of a [`log_payload`] on.
#[must_use]
pub fn log_forwarding(payload: &[u8]) -> Forwarding {
    match payload.get(4) {
        None => Forwarding::Here,
        Some(2) => Forwarding::Arrival,
        Some(_) => Forwarding::Elsewhere,
    }
}
