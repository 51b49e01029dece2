//! Request targets of the client-server API.

use std::fmt::Write as _;

/// Everything below is under this prefix.
const V3: &str = "/_matrix/client/v3";

/// Percent-encodes `text` for use as one path segment or query value (RFC 3986, "unreserved" stays).
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(encoded, "%{byte:02X}").unwrap_or_default();
        }
    }
    encoded
}

/// A room ID together with its encoded form, which every request about the room needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// The room ID.
    pub(crate) id: String,
    encoded: String,
}

impl Room {
    /// Wraps a room ID.
    pub(crate) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), encoded: encode(id) }
    }

    /// `PUT /rooms/{roomId}/send/m.room.message/{txnId}`
    pub(crate) fn send(&self, transaction_id: &str) -> String {
        format!("{V3}/rooms/{}/send/m.room.message/{}", self.encoded, encode(transaction_id))
    }

    /// `POST /rooms/{roomId}/join`
    pub(crate) fn join(&self) -> String {
        format!("{V3}/rooms/{}/join", self.encoded)
    }

    /// `POST /join/{roomId}` by way of another server.
    pub(crate) fn join_via(&self, server: &str) -> String {
        format!("{V3}/join/{}?via={}", self.encoded, encode(server))
    }

    /// `GET /rooms/{roomId}/messages`, backwards.
    pub(crate) fn messages(&self, from: Option<&str>, limit: u32) -> String {
        let mut target = format!("{V3}/rooms/{}/messages?dir=b&limit={limit}", self.encoded);
        if let Some(from) = from {
            target.push_str("&from=");
            target.push_str(&encode(from));
        }
        target
    }

    /// `POST /rooms/{roomId}/receipt/m.read/{eventId}`
    pub(crate) fn receipt(&self, event_id: &str) -> String {
        format!("{V3}/rooms/{}/receipt/m.read/{}", self.encoded, encode(event_id))
    }
}

/// `GET /sync`. `filter` is inline JSON. Presence is not touched.
pub(crate) fn sync(since: Option<&str>, timeout_ms: u32, filter: Option<&str>) -> String {
    let mut target = format!("{V3}/sync?timeout={timeout_ms}&set_presence=offline");
    for (name, value) in [("since", since), ("filter", filter)] {
        if let Some(value) = value {
            target.push('&');
            target.push_str(name);
            target.push('=');
            target.push_str(&encode(value));
        }
    }
    target
}

/// Simplified sliding sync, without waiting. Presence is not touched.
pub(crate) fn sliding_sync(pos: Option<&str>) -> String {
    let target = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let pos = pos.map_or_else(String::new, |pos| format!("&pos={}", encode(pos)));
    format!("{target}?timeout=0&set_presence=offline{pos}")
}

/// Hearth's WebSocket (`docs/websocket.md`). `filter` is inline JSON. Presence is not touched.
pub(crate) fn websocket(since: &str, filter: &str) -> String {
    let (since, filter) = (encode(since), encode(filter));
    format!(
        "/_matrix/client/unstable/org.hearth.websocket/sync?set_presence=offline&since={since}&filter={filter}"
    )
}

/// `GET /download/{serverName}/{mediaId}`; `place` is what follows `mxc://` in a content URI.
pub(crate) fn download(place: &str) -> String {
    format!("/_matrix/client/v1/media/download/{place}")
}

/// `POST /register`
pub(crate) const REGISTER: &str = "/_matrix/client/v3/register";
/// Registration with a shared secret, as several homeservers have it.
pub(crate) const REGISTER_WITH_SECRET: &str = "/_synapse/admin/v1/register";
/// `POST /createRoom`
pub(crate) const CREATE_ROOM: &str = "/_matrix/client/v3/createRoom";
/// `GET /account/whoami`
pub(crate) const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
/// `POST /keys/upload`
pub(crate) const UPLOAD_KEYS: &str = "/_matrix/client/v3/keys/upload";
/// `POST /pushers/set`
pub(crate) const SET_PUSHER: &str = "/_matrix/client/v3/pushers/set";
/// `POST /upload`
pub(crate) const UPLOAD: &str = "/_matrix/media/v3/upload";
/// `POST /keys/claim`
pub(crate) const CLAIM: &str = "/_matrix/client/v3/keys/claim";
/// `GET /versions`
pub(crate) const VERSIONS: &str = "/_matrix/client/versions";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_what_a_path_segment_cannot_hold() {
        assert_eq!(encode("!a:b.c"), "%21a%3Ab.c");
        assert_eq!(encode("a b/ü?"), "a%20b%2F%C3%BC%3F");
        assert_eq!(encode("plain-Text_1.~"), "plain-Text_1.~");
    }

    #[test]
    fn builds_targets() {
        let room = Room::new("!r:x");
        assert_eq!(room.send("t/1"), "/_matrix/client/v3/rooms/%21r%3Ax/send/m.room.message/t%2F1");
        assert_eq!(room.join(), "/_matrix/client/v3/rooms/%21r%3Ax/join");
        assert_eq!(room.join_via("h:1"), "/_matrix/client/v3/join/%21r%3Ax?via=h%3A1");
        assert_eq!(
            room.messages(None, 5),
            "/_matrix/client/v3/rooms/%21r%3Ax/messages?dir=b&limit=5"
        );
        assert_eq!(
            room.messages(Some("t&1"), 5),
            "/_matrix/client/v3/rooms/%21r%3Ax/messages?dir=b&limit=5&from=t%261"
        );
        assert_eq!(download("x:1/a"), "/_matrix/client/v1/media/download/x:1/a");
        assert_eq!(room.receipt("$e"), "/_matrix/client/v3/rooms/%21r%3Ax/receipt/m.read/%24e");
        assert_eq!(sync(None, 0, None), "/_matrix/client/v3/sync?timeout=0&set_presence=offline");
        assert_eq!(
            sync(Some("s1"), 30_000, Some("{}")),
            "/_matrix/client/v3/sync?timeout=30000&set_presence=offline&since=s1&filter=%7B%7D"
        );
    }
}
