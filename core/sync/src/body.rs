//! Writing JSON straight into bytes: events are copied as they are, never parsed again.

use serde::Serialize;

/// An object being written.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    pub(crate) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Writes a key; the caller writes its value.
    pub(crate) fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        write_json(self.out, name);
        self.out.push(b':');
        self.out
    }

    /// Writes a member.
    pub(crate) fn member(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        write_json(self.key(name), value);
    }

    /// Writes a member whose value is JSON already.
    pub(crate) fn raw(&mut self, name: &str, json: &[u8]) {
        self.key(name).extend_from_slice(json);
    }

    /// Writes `"name": {"events": […]}`, or nothing if the list is empty.
    pub(crate) fn events(&mut self, name: &str, events: &EventList) {
        if !events.is_empty() {
            events.write_object(self.key(name));
        }
    }

    pub(crate) fn end(self) {
        self.out.push(b'}');
    }
}

/// An array being written.
pub(crate) struct Array<'a> {
    out: &'a mut Vec<u8>,
    /// Where its elements begin.
    start: usize,
}

impl<'a> Array<'a> {
    pub(crate) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'[');
        let start = out.len();
        Self { out, start }
    }

    /// Where the next element, or several with commas between them, are to be written.
    pub(crate) fn next(&mut self) -> &mut Vec<u8> {
        if self.out.len() > self.start {
            self.out.push(b',');
        }
        self.out
    }

    pub(crate) fn end(self) {
        self.out.push(b']');
    }
}

/// Elements of an array, written one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventList {
    bytes: Vec<u8>,
}

impl EventList {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Where the next element is to be written.
    pub(crate) fn next(&mut self) -> &mut Vec<u8> {
        if !self.bytes.is_empty() {
            self.bytes.push(b',');
        }
        &mut self.bytes
    }

    /// Adds an element that is JSON already.
    pub(crate) fn push(&mut self, json: &[u8]) {
        self.next().extend_from_slice(json);
    }

    /// Adds an event of this type and content.
    pub(crate) fn push_event(&mut self, event_type: &str, content: &[u8]) {
        let mut event = Object::begin(self.next());
        event.raw("content", content);
        event.member("type", event_type);
        event.end();
    }

    /// Writes the array.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        out.extend_from_slice(&self.bytes);
        out.push(b']');
    }

    /// Writes `{"events": […]}`.
    pub(crate) fn write_object(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"events\":");
        self.write(out);
        out.push(b'}');
    }
}

/// Writes a value. Strings, numbers and maps with string keys cannot fail to be written into memory;
/// should another type find a way, `null` keeps the body well-formed.
pub(crate) fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_nested_objects_and_lists() {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        object.member("a\"", "b\n");
        object.events("none", &EventList::default());
        let mut events = EventList::default();
        events.push(b"{}");
        events.push_event("m.x", b"{\"y\":1}");
        object.events("some", &events);
        Object::begin(object.key("inner")).end();
        Array::begin(object.key("nothing")).end();
        let mut array = Array::begin(object.key("array"));
        array.next().extend_from_slice(b"1,2");
        Object::begin(array.next()).end();
        array.end();
        object.end();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let wanted = serde_json::json!({
            "a\"": "b\n", "inner": {}, "nothing": [], "array": [1, 2, {}],
            "some": {"events": [{}, {"type": "m.x", "content": {"y": 1}}]},
        });
        assert_eq!(value, wanted);
    }
}
