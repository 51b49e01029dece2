//! The object that a request's signature is over (SS "Request Authentication").
//!
//! Bodies may hold what canonical JSON does not admit, such as a fraction in a to-device message. Their
//! senders signed it all the same, as they wrote it. A request must not be lost for that, and with it
//! all that its sender has to say; so numbers are kept as they were written.

use std::collections::BTreeMap;

/// Greatest nesting that is followed. Bodies are bounded below it before they come here.
const MAX_DEPTH: usize = 128;

/// The canonical form of the signed object: its destination, method, origin and URI, and the body
/// unless that is empty. `None` if the body is not JSON.
pub(super) fn request_object(
    [destination, method, origin, uri]: [&str; 4],
    body: &[u8],
) -> Option<String> {
    let mut object = String::with_capacity(body.len() + 512);
    object.push('{');
    if !body.is_empty() {
        object.push_str(r#""content":"#);
        let mut reader = Reader { rest: std::str::from_utf8(body).ok()? };
        reader.value(&mut object, 0)?;
        reader.skip_blanks();
        if !reader.rest.is_empty() {
            return None;
        }
        object.push(',');
    }
    let fields = [("destination", destination), ("method", method), ("origin", origin)];
    for (name, value) in fields {
        object.extend([quote(name)?, ":".to_owned(), quote(value)?, ",".to_owned()]);
    }
    object.extend([quote("uri")?, ":".to_owned(), quote(uri)?, "}".to_owned()]);
    Some(object)
}

fn quote(text: &str) -> Option<String> {
    serde_json::to_string(text).ok()
}

/// Reads JSON that is known to be well-formed; of what is not, it makes something or nothing.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// Writes the next value's canonical form.
    fn value(&mut self, out: &mut String, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_blanks();
        match self.rest.as_bytes().first()? {
            b'{' => self.object(out, depth),
            b'[' => self.array(out, depth),
            b'"' => {
                out.push_str(&quote(&self.string()?)?);
                Some(())
            }
            _ => {
                // A number, `true`, `false` or `null`.
                let ends = |next: char| matches!(next, ',' | ']' | '}' | ' ' | '\t' | '\n' | '\r');
                let (word, rest) =
                    self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
                self.rest = rest;
                out.push_str(word);
                (!word.is_empty()).then_some(())
            }
        }
    }

    fn object(&mut self, out: &mut String, depth: usize) -> Option<()> {
        self.expect('{')?;
        let mut fields = BTreeMap::new();
        if !self.peek('}') {
            loop {
                self.skip_blanks();
                let name = self.string()?;
                self.expect(':')?;
                let mut value = String::new();
                self.value(&mut value, depth + 1)?;
                // Of a name that comes twice, parsers take the last.
                fields.insert(name, value);
                if !self.peek(',') {
                    break;
                }
                self.expect(',')?;
            }
        }
        self.expect('}')?;
        out.push('{');
        for (place, (name, value)) in fields.into_iter().enumerate() {
            if place > 0 {
                out.push(',');
            }
            out.push_str(&quote(&name)?);
            out.push(':');
            out.push_str(&value);
        }
        out.push('}');
        Some(())
    }

    fn array(&mut self, out: &mut String, depth: usize) -> Option<()> {
        self.expect('[')?;
        out.push('[');
        if !self.peek(']') {
            loop {
                self.value(out, depth + 1)?;
                if !self.peek(',') {
                    break;
                }
                self.expect(',')?;
                out.push(',');
            }
        }
        self.expect(']')?;
        out.push(']');
        Some(())
    }

    /// A string, without its escapes.
    fn string(&mut self) -> Option<String> {
        let mut escaped = false;
        let inside = self.rest.strip_prefix('"')?;
        let end = inside.bytes().position(|byte| match byte {
            _ if escaped => {
                escaped = false;
                false
            }
            b'\\' => {
                escaped = true;
                false
            }
            byte => byte == b'"',
        })?;
        // The quotes are one byte each.
        let (string, rest) = self.rest.split_at(end + 2);
        self.rest = rest;
        serde_json::from_str(string).ok()
    }

    fn expect(&mut self, next: char) -> Option<()> {
        self.skip_blanks();
        self.rest = self.rest.strip_prefix(next)?;
        Some(())
    }

    fn peek(&mut self, next: char) -> bool {
        self.skip_blanks();
        self.rest.starts_with(next)
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{api::federation::authentication::XMatrix, server_name};
    use serde_json::{Value, json};

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-1_000_000_i64..1_000_000).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn is_what_ruma_signs(content in any_json(), uri in "/[a-z%/?=&]{0,20}") {
            let body = serde_json::to_string_pretty(&json!({ "b": content, "a": 1 })).unwrap();
            let mut request = http::Request::new(body.clone());
            *request.method_mut() = http::Method::PUT;
            *request.uri_mut() = uri.parse().unwrap();
            let (origin, destination) = (server_name!("a.b"), server_name!("c.d"));
            let object = XMatrix::request_object(&request, origin, destination).unwrap();
            let uri = request.uri().path_and_query().unwrap().as_str();
            prop_assert_eq!(
                request_object(["c.d", "PUT", "a.b", uri], body.as_bytes()).unwrap(),
                serde_json::to_string(&object).unwrap()
            );
        }

        #[test]
        fn nothing_makes_it_panic(body in any::<Vec<u8>>(), text in "[\\[\\]{}:,\"\\\\ a1-]{0,40}") {
            request_object(["a", "b", "c", "d"], &body);
            request_object(["a", "b", "c", "d"], text.as_bytes());
        }
    }

    #[test]
    fn numbers_stay_as_they_were_written() {
        let body = br#"{"b": 1.50, "a": [1e5, -0, 12345678901234567890], "b": 2.5}"#;
        assert_eq!(
            request_object(["d", "PUT", "o", "/u"], body).unwrap(),
            r#"{"content":{"a":[1e5,-0,12345678901234567890],"b":2.5},"destination":"d","method":"PUT","origin":"o","uri":"/u"}"#
        );
        assert_eq!(
            request_object(["d", "GET", "o", "/u"], b"").unwrap(),
            r#"{"destination":"d","method":"GET","origin":"o","uri":"/u"}"#
        );
        assert_eq!(request_object(["d", "PUT", "o", "/u"], b"{} {}"), None);
    }
}
