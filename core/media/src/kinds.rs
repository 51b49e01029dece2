//! Content types: what is believed of what an uploader says, and what browsers may show in place
//! (CS "Serving inline content").

/// The type of what is not known better.
pub(crate) const UNKNOWN: &str = "application/octet-stream";
/// The longest content type that is kept.
const MAX_TYPE_BYTES: usize = 255;
/// Bytes from an upload's beginning that are looked at.
pub(crate) const HEAD_BYTES: usize = 64;

/// The types that the specification lets servers serve inline.
const INLINE: &[&str] = &[
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// What the first bytes of the formats that clients send most look like.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftyp", "video/mp4"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"%PDF-", "application/pdf"),
];

/// The type to serve content with: what the uploader said if it can stand in a header, else what the bytes look
/// like.
pub(crate) fn content_type(said: Option<&str>, head: &[u8]) -> String {
    let said = said.map(str::trim).filter(|said| is_content_type(said));
    said.or_else(|| sniffed(head)).unwrap_or(UNKNOWN).to_owned()
}

/// The type of a picture that can be shown in place, by its first bytes, whatever anybody says of it.
pub(crate) fn picture_type(head: &[u8]) -> Option<&'static str> {
    sniffed(head).filter(|kind| kind.starts_with("image/"))
}

/// May browsers show content of this type in place? Only the types of the specification's list; and not what
/// calls itself a picture, sound or film and begins as markup does.
pub(crate) fn is_inline(content_type: &str, head: &[u8]) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let played = ["image/", "video/", "audio/"].iter().any(|kind| essence.starts_with(kind));
    INLINE.contains(&essence.as_str()) && !(played && is_markup(head))
}

/// `type/subtype`, and parameters of printable characters.
fn is_content_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let token = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte);
        !part.is_empty() && part.bytes().all(allowed)
    };
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    text.len() <= MAX_TYPE_BYTES
        && printable
        && essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

fn sniffed(head: &[u8]) -> Option<&'static str> {
    let matches = |(offset, bytes, _): &&(usize, &[u8], _)| {
        head.get(*offset..).is_some_and(|rest| rest.starts_with(bytes))
    };
    SIGNATURES.iter().find(matches).map(|(_, _, kind)| *kind)
}

/// Is a `<` the first that comes, behind byte order marks, blanks and the zeros of wider characters?
fn is_markup(head: &[u8]) -> bool {
    let skipped = |byte: &&u8| {
        byte.is_ascii_whitespace() || matches!(byte, 0 | 0xef | 0xbb | 0xbf | 0xfe | 0xff)
    };
    head.iter().find(|byte| !skipped(byte)) == Some(&b'<')
}

#[cfg(test)]
mod tests {
    use ruma::http_headers::{ContentDisposition, ContentDispositionType};

    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

    #[test]
    fn what_the_uploader_says_counts_if_it_is_a_type() {
        assert_eq!(content_type(Some("image/PNG"), b""), "image/PNG");
        assert_eq!(
            content_type(Some(" text/plain; charset=utf-8 "), b""),
            "text/plain; charset=utf-8"
        );
        let long = format!("text/{}", "x".repeat(MAX_TYPE_BYTES));
        for wrong in ["", "png", "/", "image/", "image/p ng", "image/png\r\nx: y", "ä/b", &long] {
            assert_eq!(content_type(Some(wrong), PNG), "image/png", "{wrong:?}");
            assert_eq!(content_type(Some(wrong), b"?"), UNKNOWN, "{wrong:?}");
        }
    }

    #[test]
    fn what_nothing_is_said_of_is_told_by_its_bytes() {
        let cases: &[(&[u8], &str)] = &[
            (PNG, "image/png"),
            (b"\xff\xd8\xff\xe0", "image/jpeg"),
            (b"GIF89a....", "image/gif"),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
            (b"RIFF\x10\0\0\0WAVEfmt ", "audio/wav"),
            (b"\0\0\0\x20ftypisom", "video/mp4"),
            (b"\0\0\0\x20ftypavif", "image/avif"),
            (b"<svg xmlns=", UNKNOWN),
            (b"<html>", UNKNOWN),
            (b"", UNKNOWN),
        ];
        for (head, expected) in cases {
            assert_eq!(content_type(None, head), *expected, "{head:?}");
        }
    }

    #[test]
    fn only_what_the_specification_lists_is_inline() {
        for kind in INLINE {
            assert!(is_inline(kind, PNG), "{kind}");
        }
        assert!(is_inline("Image/PNG; charset=x", PNG));
        assert!(is_inline("application/json", b"{}"));
        let others = [
            "text/html",
            "image/svg+xml",
            "application/pdf",
            "text/xml",
            UNKNOWN,
            "image/pngx",
            "",
        ];
        for kind in others {
            assert!(!is_inline(kind, PNG), "{kind}");
        }
    }

    #[test]
    fn a_picture_that_is_markup_is_not_inline() {
        let pages: &[&[u8]] = &[
            b"<script>",
            b" \n\t<html>",
            b"\xef\xbb\xbf<svg",
            b"\xff\xfe<\0s\0",
            b"\xfe\xff\0<\0s",
        ];
        for head in pages {
            assert!(!is_inline("image/png", head), "{head:?}");
            assert!(!is_inline("video/mp4", head), "{head:?}");
        }
        assert!(is_inline("text/plain", b"<html>"), "shown as what it is said to be");
    }

    #[test]
    fn fuzz_types_and_names() {
        let seeds: &[&[u8]] = &[
            b"image/png; charset=utf-8\nattachment; filename=\"a\\\"b.png\"\n\x89PNG\r\n\x1a\n",
            b"text/html\ninline; filename*=utf-8''%e2%82%ac.txt\n<html>",
            b"\nattachment; filename=../../etc/passwd\nRIFF\0\0\0\0WEBP",
        ];
        let words: &[&[u8]] = &[
            b"\n",
            b"\r\n",
            b";",
            b"\"",
            b"\\",
            b"%0d%0a",
            b"%00",
            b"filename*=utf-8''",
            b"filename=",
            b"image/",
            b"<svg",
            b"\xff\xfe",
            b"GIF89a",
            b"=",
        ];
        hearth_fuzz::fuzz(seeds, words, |input| {
            let mut parts = input.splitn(3, |byte| *byte == b'\n');
            let mut part = || parts.next().unwrap_or_default();
            let (said, disposition, head) = (part(), part(), part());
            let about = crate::About::of(&String::from_utf8_lossy(said), disposition);
            let kind = content_type(about.content_type.as_deref(), head);
            assert!(
                http::HeaderValue::from_str(&kind).is_ok() && is_content_type(&kind),
                "{kind:?}"
            );
            if is_inline(&kind, head) {
                let essence = kind.split(';').next().unwrap().trim().to_ascii_lowercase();
                assert!(INLINE.contains(&essence.as_str()), "{kind:?}");
                assert!(
                    !essence.starts_with("image/") || !head.trim_ascii_start().starts_with(b"<")
                );
            }
            if let Some(name) = about.file_name {
                let attachment = ContentDisposition::new(ContentDispositionType::Attachment);
                let served = attachment.with_filename(Some(name.clone())).to_string();
                assert!(http::HeaderValue::from_str(&served).is_ok(), "{served:?}");
                // Of a name, what cannot be in a header is left out.
                if !name.contains(char::is_control) {
                    assert_eq!(crate::About::of("", served.as_bytes()).file_name, Some(name));
                }
            }
        });
    }
}
