//! `m.room.server_acl`: which servers may take part in a room (CS "Server Access Control Lists (ACLs)
//! for rooms", SS "Server Access Control Lists (ACLs)").

use std::sync::Arc;

use ruma::{OwnedEventId, RoomId, ServerName};
use serde_json::{Map, Value};

use crate::{
    Rooms,
    error::RoomError,
    schema::{EventOrdinal, StoredEvent},
};

/// A parsed access list, and which form of which event it was read from.
#[derive(Clone, Debug)]
pub(super) struct CachedAcl {
    event: EventOrdinal,
    redacted_by: Option<EventOrdinal>,
    acl: Arc<ServerAcl>,
}

/// Who may take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerAcl {
    allow: Vec<Glob>,
    deny: Vec<Glob>,
    allow_ip_literals: bool,
}

impl Rooms {
    /// Does the room's `m.room.server_acl` admit this server? Case and port are ignored. Rooms that are
    /// not here admit everybody.
    pub async fn acl_admits(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<bool, RoomError> {
        let Some(head) = self.head(room_id).await? else {
            return Ok(true);
        };
        let event = self.state_event(room_id, head.state, "m.room.server_acl", "").await?;
        let Some(event) = event else {
            return Ok(true);
        };
        Ok(self.parsed_acl(room_id, &event).admits(server))
    }

    /// [`RoomError::Forbidden`] unless the room's access list admits the server.
    pub async fn require_admitted(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<(), RoomError> {
        if self.acl_admits(room_id, server).await? {
            return Ok(());
        }
        Err(RoomError::Forbidden("your server is not allowed in this room".to_owned()))
    }

    /// The list of an event, parsed once for each form that the event takes.
    fn parsed_acl(&self, room_id: &RoomId, event: &StoredEvent) -> Arc<ServerAcl> {
        let redacted_by = event.header.redacted_by;
        let cached = self.served().acls.get(room_id);
        if let Some(cached) = cached
            && cached.event == event.ordinal
            && cached.redacted_by == redacted_by
        {
            return cached.acl;
        }
        let acl = Arc::new(ServerAcl::of(event));
        let cached = CachedAcl { event: event.ordinal, redacted_by, acl: Arc::clone(&acl) };
        self.served().acls.insert(room_id.to_owned(), cached);
        acl
    }
}

impl ServerAcl {
    fn of(event: &StoredEvent) -> Self {
        let content: Map<String, Value> = event.pdu.content_as().unwrap_or_default();
        Self::parse(&event.header.event_id, &content)
    }

    /// Reads a content. What has the wrong type counts as missing: a missing `allow` admits nobody, a
    /// missing `deny` denies nobody, and a missing `allow_ip_literals` is `true`.
    fn parse(event_id: &OwnedEventId, content: &Map<String, Value>) -> Self {
        let globs = |field: &str| -> Vec<Glob> {
            let list = content.get(field).and_then(Value::as_array).map(Vec::as_slice);
            let texts = list.unwrap_or_default().iter().filter_map(Value::as_str);
            texts.map(Glob::new).collect()
        };
        if !content.get("allow").is_some_and(Value::is_array) {
            tracing::debug!(%event_id, "an access list without `allow` admits no server");
        }
        Self {
            allow: globs("allow"),
            deny: globs("deny"),
            allow_ip_literals: content
                .get("allow_ip_literals")
                .and_then(Value::as_bool)
                .unwrap_or(true),
        }
    }

    fn admits(&self, server: &ServerName) -> bool {
        if server.is_ip_literal() && !self.allow_ip_literals {
            return false;
        }
        let host = server.host().to_ascii_lowercase();
        let matches = |glob: &Glob| glob.matches(host.as_bytes());
        !self.deny.iter().any(matches) && self.allow.iter().any(matches)
    }
}

/// A pattern over server names: `*` for any characters, `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob {
    /// In lower case, without two `*` in a row.
    pattern: Box<[u8]>,
    /// Characters that are no `*`: a shorter name cannot match.
    shortest: usize,
}

impl Glob {
    fn new(pattern: &str) -> Self {
        let mut bytes = pattern.to_ascii_lowercase().into_bytes();
        bytes.dedup_by(|next, last| *next == b'*' && *last == b'*');
        let shortest = bytes.iter().filter(|byte| **byte != b'*').count();
        Self { pattern: bytes.into(), shortest }
    }

    /// Does the whole text match? When a letter does not fit, only the last `*` is stretched, which is
    /// enough: the work is bounded by the product of the lengths.
    fn matches(&self, text: &[u8]) -> bool {
        if text.len() < self.shortest {
            return false;
        }
        let (mut at_pattern, mut at_text) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while let Some(letter) = text.get(at_text) {
            match self.pattern.get(at_pattern) {
                Some(b'*') => {
                    at_pattern += 1;
                    star = Some((at_pattern, at_text));
                }
                Some(wanted) if *wanted == b'?' || wanted == letter => {
                    at_pattern += 1;
                    at_text += 1;
                }
                _ => match &mut star {
                    Some((after_star, stretched)) => {
                        *stretched += 1;
                        (at_pattern, at_text) = (*after_star, *stretched);
                    }
                    None => return false,
                },
            }
        }
        self.pattern.get(at_pattern..).unwrap_or_default().iter().all(|left| *left == b'*')
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_event_id;
    use serde_json::json;

    use super::*;

    fn acl(content: &Value) -> ServerAcl {
        ServerAcl::parse(&owned_event_id!("$acl"), content.as_object().unwrap())
    }

    fn admits(acl: &ServerAcl, server: &str) -> bool {
        acl.admits(<&ServerName>::try_from(server).unwrap())
    }

    #[test]
    fn denies_before_it_allows_and_ignores_case_and_port() {
        let acl = acl(&json!({ "allow": ["*"], "deny": ["*.Evil.example", "b?d.example"] }));
        for refused in ["x.evil.example", "X.EVIL.example:8448", "bad.example", "BUD.example:1"] {
            assert!(!admits(&acl, refused), "{refused}");
        }
        for allowed in ["evil.example", "baad.example", "bd.example", "good.example:8448"] {
            assert!(admits(&acl, allowed), "{allowed}");
        }
    }

    #[test]
    fn ip_literals_can_be_kept_out_whatever_their_form() {
        let open = acl(&json!({ "allow": ["*"] }));
        let shut = acl(&json!({ "allow": ["*"], "allow_ip_literals": false }));
        for ip in ["192.0.2.1", "192.0.2.1:8448", "[2001:db8::1]", "[2001:db8::1]:8448"] {
            assert!(admits(&open, ip), "{ip}");
            assert!(!admits(&shut, ip), "{ip}");
        }
        let one = acl(&json!({ "allow": ["[2001:DB8::1]"] }));
        assert!(admits(&one, "[2001:db8::1]:8448"));
        assert!(!admits(&one, "[2001:db8::2]"));
    }

    #[test]
    fn what_is_malformed_counts_as_missing() {
        for content in [json!({}), json!({ "allow": "*" }), json!({ "allow": [5, null, ["*"]] })] {
            assert!(!admits(&acl(&content), "hs.test"), "{content}");
        }
        let odd = json!({ "allow": [7, "*"], "deny": "hs.test", "allow_ip_literals": "no" });
        assert!(admits(&acl(&odd), "hs.test"));
        assert!(admits(&acl(&odd), "192.0.2.1"));
    }

    #[test]
    fn globs_match_whole_names() {
        let matches = |pattern: &str, text: &str| Glob::new(pattern).matches(text.as_bytes());
        assert!(matches("", ""));
        assert!(matches("**", ""));
        assert!(matches("a*b*c", "abbbcbc"));
        assert!(matches("*.org", "matrix.org"));
        assert!(matches("?.org", "x.org"));
        assert!(!matches("a*b*c", "abbbcb"));
        assert!(!matches("?", ""));
        assert!(!matches("*.org", "matrix.org.evil"));
        assert!(!matches("matrix", "matrix.org"));
    }

    #[test]
    fn no_pattern_makes_matching_slow() {
        // With backtracking over every star this would take longer than the universe is old.
        let pattern = format!("{}b", "a*".repeat(120));
        assert!(!Glob::new(&pattern).matches("a".repeat(250).as_bytes()));
    }
}
