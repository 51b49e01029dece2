//! Reading the few fields that a load generator needs out of a response, without parsing all of it.
//!
//! The scanner looks for `"name":"value"`, which is enough for fields whose values are identifiers or tokens.
//! It is no JSON parser: where a field may hold escapes, or may be absent in favor of a nested one, use `serde_json`.

/// The value of the first string field called `name`, if it holds no escape.
pub(crate) fn string_field<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(body).ok()?;
    let quoted = format!("\"{name}\"");
    let value = text.match_indices(&quoted).find_map(|(at, _)| {
        let value = text.get(at + quoted.len()..)?.trim_start().strip_prefix(':')?;
        value.trim_start().strip_prefix('"')
    })?;
    let (value, _) = value.split_once('"')?;
    (!value.contains('\\')).then_some(value)
}

/// The numbers that follow each occurrence of `marker`, in order.
pub(crate) fn marked_numbers<'a>(
    body: &'a [u8],
    marker: &'a str,
) -> impl Iterator<Item = u32> + 'a {
    let text = std::str::from_utf8(body).unwrap_or_default();
    text.match_indices(marker)
        .filter_map(move |(at, _)| leading_number(text.get(at + marker.len()..)?))
}

/// The decimal number that `text` starts with.
fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_string_field() {
        assert_eq!(string_field(br#"{"event_id":"$abc"}"#, "event_id"), Some("$abc"));
        assert_eq!(string_field(br#"{ "a" : 1, "event_id" :  "$abc" }"#, "event_id"), Some("$abc"));
        assert_eq!(
            string_field(br#"{"xevent_id":"no","event_id":"yes"}"#, "event_id"),
            Some("yes")
        );
        assert_eq!(
            string_field(br#"{"event_idx":"no","event_id":"yes"}"#, "event_id"),
            Some("yes")
        );
    }

    #[test]
    fn passes_over_fields_of_other_types_and_values_of_the_same_name() {
        assert_eq!(string_field(br#"{"end":null,"x":"end","end":"t1"}"#, "end"), Some("t1"));
        assert_eq!(string_field(br#"{"chunk":["end"],"start":"s"}"#, "end"), None);
        assert_eq!(string_field(br#"{"body":"end","n":{"end":7}}"#, "end"), None);
    }

    #[test]
    fn ends_on_cut_off_and_foreign_input() {
        assert_eq!(string_field(b"", "end"), None);
        assert_eq!(string_field(br#"{"end":"never closed"#, "end"), None);
        assert_eq!(string_field(br#"{"end":"an \"escape\"""#, "end"), None);
        assert_eq!(string_field(b"\xff\xfe", "end"), None);
        assert_eq!(string_field(br#"endendend"end"end""#, "end"), None);
        assert_eq!(string_field("{\"ü\":\"end\",\"endü\":\"x\"}".as_bytes(), "end"), None);
    }

    #[test]
    fn finds_marked_numbers() {
        let body =
            br#"{"body":"lg1-000012 text"},{"body":"lg1-7"},{"body":"lg2-9"},{"body":"lg1-"}"#;
        assert_eq!(marked_numbers(body, "lg1-").collect::<Vec<_>>(), [12, 7]);
        assert_eq!(marked_numbers(body, "lg2-").collect::<Vec<_>>(), [9]);
        assert_eq!(
            marked_numbers(b"lg1-99999999999999", "lg1-").count(),
            0,
            "larger than any slot"
        );
    }
}
