//! The object that a request's signature is over (SS "Request Authentication").
//!
//! Bodies may hold what canonical JSON does not admit, such as a fraction in a to-device message. Their
//! senders signed it all the same, as they wrote it. A request must not be lost for that, and with it
//! all that its sender has to say; so numbers are kept as they were written.
//!
//! Events of a transaction may be nested deeper than any parser follows, which harms only themselves if
//! the request is not lost for it. So the body is worked on without recursion, in time that grows with
//! its length alone: first the fields of its objects are found, then they are written in their order.

use std::{borrow::Cow, vec};

use serde::de::IgnoredAny;

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
        let text = std::str::from_utf8(body).ok()?;
        // What follows relies on it.
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        Parsed::find(text)?.write(&mut object)?;
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

/// A field of an object; its places are offsets in the text.
struct Field {
    /// The object's number.
    object: u32,
    /// Where its name begins.
    name: u32,
    /// Where its value ends.
    end: u32,
}

/// All objects of a JSON text, and their fields.
struct Parsed<'a> {
    text: &'a str,
    /// Where each object begins and ends, in the order in which they begin.
    objects: Vec<(u32, u32)>,
    /// By object, in the order in which they were written.
    fields: Vec<Field>,
}

/// A list or an object that has not ended yet.
enum Open {
    List,
    Object {
        number: u32,
        /// The field whose name was read last; `None` if a name is next.
        field: Option<usize>,
    },
}

/// A field as it is written: its name, and where its value is.
type Named<'a> = (Cow<'a, str>, usize, usize);

/// What is still to be written.
enum Step<'a> {
    /// What stands between these places.
    Text(usize, usize),
    /// These fields, and the end of their object.
    Fields(vec::IntoIter<Named<'a>>, bool),
}

impl<'a> Parsed<'a> {
    /// Finds them in JSON that is known to be well-formed.
    fn find(text: &'a str) -> Option<Self> {
        let mut found = Self { text, objects: Vec::new(), fields: Vec::new() };
        let mut open = Vec::new();
        let mut at = 0;
        while let Some(byte) = text.as_bytes().get(at) {
            let here = u32::try_from(at).ok()?;
            at += 1;
            match byte {
                b'"' => {
                    at = string_end(text, at - 1)?;
                    if let Some(Open::Object { number, field: field @ None }) = open.last_mut() {
                        *field = Some(found.fields.len());
                        found.fields.push(Field { object: *number, name: here, end: here });
                    }
                }
                b'[' => open.push(Open::List),
                b'{' => {
                    let number = u32::try_from(found.objects.len()).ok()?;
                    found.objects.push((here, here));
                    open.push(Open::Object { number, field: None });
                }
                b',' => {
                    if let Some(Open::Object { field, .. }) = open.last_mut() {
                        found.end_field(field.take(), here);
                    }
                }
                b']' | b'}' => {
                    if let Some(Open::Object { number, field }) = open.pop() {
                        found.end_field(field, here);
                        found.objects.get_mut(number as usize)?.1 = here + 1;
                    }
                }
                _ => {}
            }
        }
        found.fields.sort_by_key(|field| field.object);
        Some(found)
    }

    fn end_field(&mut self, field: Option<usize>, at: u32) {
        if let Some(field) = field.and_then(|field| self.fields.get_mut(field)) {
            field.end = at;
        }
    }

    /// Writes the text's canonical form.
    fn write(&self, out: &mut String) -> Option<()> {
        let mut steps = vec![Step::Text(0, self.text.len())];
        while let Some(step) = steps.pop() {
            match step {
                Step::Text(at, end) => {
                    let object = self.copy(at, end, out)?;
                    if object == end {
                        continue;
                    }
                    let object = u32::try_from(object).ok()?;
                    let number = self.objects.partition_point(|(begin, _)| *begin < object);
                    let (_, behind) = self.objects.get(number)?;
                    steps.push(Step::Text(*behind as usize, end));
                    out.push('{');
                    let number = u32::try_from(number).ok()?;
                    steps.push(Step::Fields(self.fields_of(number)?.into_iter(), true));
                }
                Step::Fields(mut fields, is_first) => {
                    let Some((name, value, end)) = fields.next() else {
                        out.push('}');
                        continue;
                    };
                    if !is_first {
                        out.push(',');
                    }
                    out.push_str(&quote(&name)?);
                    out.push(':');
                    steps.push(Step::Fields(fields, false));
                    steps.push(Step::Text(value, end));
                }
            }
        }
        Some(())
    }

    /// Writes what stands between these places up to the next object, and says where that begins; `end` if
    /// there is none.
    fn copy(&self, mut at: usize, end: usize, out: &mut String) -> Option<usize> {
        while at < end {
            match self.text.as_bytes().get(at)? {
                b'{' => return Some(at),
                b'"' => {
                    let string = self.text.get(at..string_end(self.text, at)?)?;
                    // Without escapes there is one way to write it.
                    if string.contains('\\') {
                        out.push_str(&quote(&unquote(string)?)?);
                    } else {
                        out.push_str(string);
                    }
                    at += string.len();
                    continue;
                }
                b' ' | b'\t' | b'\n' | b'\r' => {}
                // Of lists, numbers and words.
                byte => out.push(char::from(*byte)),
            }
            at += 1;
        }
        Some(end)
    }

    /// An object's fields by their names. Of a name that comes twice, parsers take the last.
    fn fields_of(&self, object: u32) -> Option<Vec<Named<'a>>> {
        let first = self.fields.partition_point(|field| field.object < object);
        let behind = self.fields.partition_point(|field| field.object <= object);
        let fields = self.fields.get(first..behind)?.iter().map(|field| {
            let begin = field.name as usize;
            let end = string_end(self.text, begin)?;
            let colon = self.text.get(end..)?.find(':')?;
            Some((unquote(self.text.get(begin..end)?)?, end + colon + 1, field.end as usize))
        });
        let mut fields: Vec<Named<'a>> = fields.collect::<Option<_>>()?;
        fields.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        fields.reverse();
        fields.dedup_by(|(later, ..), (kept, ..)| later == kept);
        fields.reverse();
        Some(fields)
    }
}

/// Where a string ends that begins here.
fn string_end(text: &str, begin: usize) -> Option<usize> {
    let mut escaped = false;
    let inside = text.as_bytes().get(begin + 1..)?;
    let length = inside.iter().position(|byte| match byte {
        _ if escaped => {
            escaped = false;
            false
        }
        b'\\' => {
            escaped = true;
            false
        }
        byte => *byte == b'"',
    })?;
    // The quotes are one byte each.
    Some(begin + length + 2)
}

/// A string without its quotes and escapes.
fn unquote(string: &str) -> Option<Cow<'_, str>> {
    if string.contains('\\') {
        return serde_json::from_str(string).ok().map(Cow::Owned);
    }
    string.get(1..string.len().checked_sub(1)?).map(Cow::Borrowed)
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
    fn deep_bodies_take_no_longer_than_flat_ones() {
        let depth = 30_000;
        let wide = format!("[{}0]", "0,".repeat(500_000));
        let nested = |open: &str, close: &str| {
            let (open, close) = (open.repeat(depth), close.repeat(depth));
            let fields = r#""destination":"d","method":"PUT","origin":"o","uri":"/u""#;
            let body = format!("{open}{wide}{close}");
            (format!(r#"{{"content":{body},{fields}}}"#), body)
        };
        for (written, sorted) in
            [(("[ ", " ]"), ("[", "]")), ((r#"{"b": 1, "a":"#, "}"), (r#"{"a":"#, r#","b":1}"#))]
        {
            let (_, body) = nested(written.0, written.1);
            let (wanted, _) = nested(sorted.0, sorted.1);
            let object = request_object(["d", "PUT", "o", "/u"], body.as_bytes());
            assert!(object.unwrap() == wanted, "{written:?}");
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
