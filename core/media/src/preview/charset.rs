//! From a page's bytes to its text.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Bytes from a page's beginning in which it may say how the rest is to be read.
const DECLARATION_BYTES: usize = 4_096;
/// The longest name of an encoding.
const MAX_LABEL_BYTES: usize = 32;

/// The text of a page: as its byte order mark says, else its header, else itself; else as UTF-8 if it can be that.
pub(crate) fn decoded<'a>(bytes: &'a [u8], content_type: &str) -> Cow<'a, str> {
    let of_header = || label_after("charset", content_type.as_bytes());
    let encoding = Encoding::for_bom(bytes).map(|(encoding, _)| encoding);
    let encoding = encoding.or_else(of_header).or_else(|| declared(bytes));
    encoding.unwrap_or_else(|| guessed(bytes)).decode(bytes).0
}

/// What the page says in `<meta charset>`, `<meta http-equiv>` or the declaration of XML. What was read so far as
/// ASCII is no UTF-16, whatever it says.
fn declared(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = bytes.get(..DECLARATION_BYTES).unwrap_or(bytes);
    let found = label_after("charset", head).or_else(|| label_after("encoding", head))?;
    Some(if found == UTF_16LE || found == UTF_16BE { UTF_8 } else { found })
}

fn guessed(bytes: &[u8]) -> &'static Encoding {
    // The page may be cut off within a character.
    let is_utf8 = match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    if is_utf8 { UTF_8 } else { WINDOWS_1252 }
}

/// The encoding that is named behind a word and `=`, in quotes or without.
fn label_after(word: &str, bytes: &[u8]) -> Option<&'static Encoding> {
    let starts = |window: &[u8]| window.eq_ignore_ascii_case(word.as_bytes());
    let places = bytes.windows(word.len()).enumerate().filter(|(_, window)| starts(window));
    places.into_iter().find_map(|(at, _)| label(bytes.get(at + word.len()..)?))
}

fn label(rest: &[u8]) -> Option<&'static Encoding> {
    let value = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let value = value.strip_prefix(b"\"").or_else(|| value.strip_prefix(b"'")).unwrap_or(value);
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || b"\"';>/?,".contains(byte);
    let end = value.iter().take(MAX_LABEL_BYTES).position(is_end);
    Encoding::for_label(value.get(..end.unwrap_or(value.len().min(MAX_LABEL_BYTES)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_it_says() {
        let latin1 = b"<title>Gr\xfc\xdfe</title>";
        assert_eq!(decoded(latin1, "text/html; charset=ISO-8859-1"), "<title>Grüße</title>");
        assert_eq!(decoded(latin1, "text/html"), "<title>Grüße</title>", "no UTF-8");
        let utf8 = "<title>Grüße</title>";
        assert_eq!(decoded(utf8.as_bytes(), "text/html"), utf8);
        assert_eq!(decoded(&utf8.as_bytes()[..10], "text/html"), "<title>Gr\u{fffd}", "cut off");
        for declaration in [
            "<meta charset=\"koi8-r\">",
            "<META CharSet = koi8-r >",
            "<meta http-equiv=content-type content='text/html; charset=koi8-r'>",
            "<?xml version='1.0' encoding='koi8-r'?>",
        ] {
            let page = [declaration.as_bytes(), b"\xf0\xd2\xc9\xd7\xc5\xd4"].concat();
            assert!(decoded(&page, "text/html").ends_with("Привет"), "{declaration}");
        }
    }

    #[test]
    fn a_byte_order_mark_counts_more_than_words() {
        let page: Vec<u8> = "\u{feff}Grüße".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decoded(&page, "text/html; charset=koi8-r"), "Grüße");
        assert_eq!(decoded(b"\xef\xbb\xbfa\xc3\xbc", "text/html; charset=koi8-r"), "aü");
    }

    #[test]
    fn nonsense_is_not_believed() {
        for kind in ["", "charset", "charset=", "charset=\"", "charset=nonsense", "charset==x"] {
            assert_eq!(decoded(b"a", kind), "a", "{kind}");
        }
        assert_eq!(decoded(b"<meta charset=utf-16>ab", ""), "<meta charset=utf-16>ab");
        let far = [vec![b' '; DECLARATION_BYTES], b"<meta charset=koi8-r>\xf0 ".to_vec()].concat();
        assert!(decoded(&far, "").ends_with("ð "), "read as the fallback");
    }
}
