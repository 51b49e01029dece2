//! `multipart/mixed` bodies in which servers give each other content (RFC 2046; SS "Content Repository"): an object,
//! then the content or where it is. Read as they come; what is held of them is bounded.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use memchr::memmem;
use ruma::http_headers::ContentDisposition;

use crate::{About, ContentStream, RemoteMediaError};

/// What may stand before the first part.
const MAX_PREAMBLE_BYTES: usize = 1_024;
/// The headers of a part.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// The object in the first part. The specification has no field for it yet.
const MAX_OBJECT_BYTES: usize = 64 * 1024;
/// The longest boundary that RFC 2046 allows.
const MAX_BOUNDARY_BYTES: usize = 70;
const HEADERS_END: &[u8] = b"\r\n\r\n";

/// What the second part is.
pub enum Found {
    /// The content. Its stream ends without an error only if the end of the part came.
    Content(About, ContentStream),
    /// Where the content is.
    Location(String),
}

/// The boundary that a content type names, if it is that of parts.
#[must_use]
pub fn boundary(content_type: &str) -> Option<String> {
    let (essence, parameters) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let named = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let boundary = named
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"))
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
        .next()?;
    (1..=MAX_BOUNDARY_BYTES).contains(&boundary.len()).then_some(boundary)
}

/// Reads up to the content.
pub async fn content(boundary: &str, body: ContentStream) -> Result<Found, RemoteMediaError> {
    let mut reader = Reader {
        body,
        // A boundary stands at a line's beginning; the first line is one too.
        buffer: BytesMut::from(&b"\r\n"[..]),
        delimiter: Arc::from(format!("\r\n--{boundary}").into_bytes()),
    };
    let delimiter = Arc::clone(&reader.delimiter);
    reader.until(&delimiter, MAX_PREAMBLE_BYTES).await?;
    reader.until(HEADERS_END, MAX_HEADER_BYTES).await?;
    // The headers' end may be the beginning of the next line.
    reader.until(&delimiter, MAX_OBJECT_BYTES).await?;
    let headers = Headers::read(&reader.until(HEADERS_END, MAX_HEADER_BYTES).await?)?;
    if let Some(location) = headers.location {
        return Ok(Found::Location(location));
    }
    let kind = headers.content_type.as_deref().unwrap_or_default();
    Ok(Found::Content(About::of(kind, &headers.disposition), reader.rest()))
}

impl About {
    /// What the values of the headers `Content-Type` and `Content-Disposition` say of content.
    #[must_use]
    pub fn of(content_type: &str, disposition: &[u8]) -> Self {
        let disposition = ContentDisposition::try_from(disposition).ok();
        let file_name = disposition.and_then(|disposition| disposition.filename);
        Self {
            content_type: (!content_type.is_empty()).then(|| content_type.to_owned()),
            file_name: file_name.filter(|name| !name.is_empty()),
        }
    }
}

#[derive(Default)]
struct Headers {
    content_type: Option<String>,
    disposition: Vec<u8>,
    location: Option<String>,
}

impl Headers {
    /// The headers of a part, behind the rest of its boundary's line.
    fn read(block: &[u8]) -> Result<Self, RemoteMediaError> {
        if block.starts_with(b"--") {
            return Err(RemoteMediaError::Failed("its answer has no content".to_owned()));
        }
        let mut headers = Self::default();
        for line in block.split(|byte| *byte == b'\n').skip(1) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let text = || String::from_utf8_lossy(value).into_owned();
            match name.trim_ascii().to_ascii_lowercase().as_slice() {
                b"content-type" => headers.content_type = Some(text()),
                b"content-disposition" => headers.disposition = value.to_vec(),
                b"location" => headers.location = Some(text()),
                _ => {}
            }
        }
        Ok(headers)
    }
}

struct Reader {
    body: ContentStream,
    buffer: BytesMut,
    delimiter: Arc<[u8]>,
}

impl Reader {
    /// What stands before `needle`, which is passed over. Holds at most `max_bytes` and one chunk.
    async fn until(&mut self, needle: &[u8], max_bytes: usize) -> Result<Bytes, RemoteMediaError> {
        let failed = |reason: &str| RemoteMediaError::Failed(reason.to_owned());
        loop {
            let found = memmem::find(&self.buffer, needle);
            if found.unwrap_or(self.buffer.len()) > max_bytes {
                return Err(failed("its answer is not of the parts that it should have"));
            }
            if let Some(length) = found {
                let before = self.buffer.split_to(length).freeze();
                drop(self.buffer.split_to(needle.len()));
                return Ok(before);
            }
            if !self.fill().await.map_err(|error| failed(&error.to_string()))? {
                return Err(failed("its answer was cut short"));
            }
        }
    }

    /// Everything up to the next boundary.
    fn rest(self) -> ContentStream {
        stream::try_unfold(self, |mut reader| async move {
            loop {
                if let Some(length) = memmem::find(&reader.buffer, &reader.delimiter) {
                    if length == 0 {
                        return Ok(None);
                    }
                    return Ok(Some((reader.buffer.split_to(length).freeze(), reader)));
                }
                // The last bytes may be the beginning of a boundary.
                let certain = reader.buffer.len().saturating_sub(reader.delimiter.len());
                if certain > 0 {
                    return Ok(Some((reader.buffer.split_to(certain).freeze(), reader)));
                }
                if !reader.fill().await? {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut short"));
                }
            }
        })
        .boxed()
    }

    /// Reads on; `false` at the end.
    async fn fill(&mut self) -> Result<bool, io::Error> {
        let Some(chunk) = self.body.next().await else { return Ok(false) };
        self.buffer.extend_from_slice(&chunk?);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    /// The body in chunks of this size.
    fn chunks(body: &[u8], size: usize) -> ContentStream {
        let chunks: Vec<_> =
            body.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        stream::iter(chunks).boxed()
    }

    async fn read(body: &[u8], size: usize) -> Result<(About, Vec<u8>), String> {
        match content("abc", chunks(body, size)).await.map_err(|error| error.to_string())? {
            Found::Content(about, body) => {
                let body: Vec<Bytes> =
                    body.try_collect().await.map_err(|error| error.to_string())?;
                Ok((about, body.concat()))
            }
            Found::Location(location) => Err(location),
        }
    }

    #[tokio::test]
    async fn reads_content_however_it_is_cut_into_chunks() {
        let bytes = b"\r\n--ab\r\n--\r\n\r\n\0\xff --abc \r\r\n-";
        let mut body = b"--abc\r\nContent-Type: application/json\r\n\r\n{}\r\n--abc\r\n\
            content-type:image/png \r\nContent-Disposition: inline; filename=\"a b.png\"\r\n\r\n"
            .to_vec();
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n--abc--\r\nwhatever follows");
        for size in 1..body.len() {
            let (about, read) = read(&body, size).await.unwrap();
            assert_eq!(read, bytes, "{size}");
            assert_eq!(about.content_type.as_deref(), Some("image/png"));
            assert_eq!(about.file_name.as_deref(), Some("a b.png"));
        }
    }

    #[tokio::test]
    async fn parts_may_have_no_headers_and_stand_behind_a_preamble() {
        let body = b"a preamble --abc\r\n--abc  \r\n\r\n{}\r\n--abc\r\n\r\nhi\r\n--abc--";
        let (about, read) = read(body, 7).await.unwrap();
        assert_eq!((read.as_slice(), about.content_type), (&b"hi"[..], None));
        let empty = b"--abc\r\n\r\n{}\r\n--abc\r\n\r\n\r\n--abc--";
        assert_eq!(self::read(empty, 5).await.unwrap().1, b"");
    }

    #[tokio::test]
    async fn tells_where_the_content_is() {
        let body =
            b"--abc\r\n\r\n{}\r\n--abc\r\nLocation: https://cdn.example/x?y=z\r\n\r\n\r\n--abc--";
        assert_eq!(read(body, 4).await.unwrap_err(), "https://cdn.example/x?y=z");
    }

    #[tokio::test]
    async fn what_is_cut_short_is_an_error_wherever_it_is_cut() {
        let body =
            b"--abc\r\nA: b\r\n\r\n{}\r\n--abc\r\nContent-Type: a/b\r\n\r\nthe content\r\n--abc";
        assert!(read(body, 9).await.is_ok());
        for length in 0..body.len() {
            assert!(read(&body[..length], 9).await.is_err(), "{length}");
        }
    }

    #[tokio::test]
    async fn what_has_no_end_is_not_held() {
        let spaces = vec![b' '; 1 << 20];
        let with = |before: &str| [before.as_bytes(), &spaces].concat();
        for body in [
            with(""),
            with("--abc\r\nX: "),
            with("--abc\r\n\r\n{"),
            with("--abc\r\n\r\n{}\r\n--abc\r\nX: "),
        ] {
            let error = read(&body, 1_000).await.unwrap_err();
            assert!(error.contains("not of the parts"), "{error}");
        }
        assert!(read(b"--abc\r\n\r\n{}\r\n--abc--\r\n\r\n", 9).await.is_err(), "no second part");
    }

    #[test]
    fn finds_the_boundary() {
        let cases = [
            ("multipart/mixed; boundary=abc", Some("abc")),
            ("Multipart/Mixed;charset=x; Boundary=\"a b\"", Some("a b")),
            ("multipart/mixed", None),
            ("multipart/mixed; boundary=", None),
            ("multipart/form-data; boundary=abc", None),
            ("application/json; boundary=abc", None),
        ];
        for (kind, expected) in cases {
            assert_eq!(boundary(kind).as_deref(), expected, "{kind}");
        }
        assert_eq!(boundary(&format!("multipart/mixed; boundary={}", "x".repeat(71))), None);
    }

    #[test]
    fn fuzz_answers_of_other_servers() {
        let whole: &[u8] = b"--abc\r\nContent-Type: application/json\r\n\r\n{}\r\n--abc\r\n\
            Content-Type: image/png\r\nContent-Disposition: inline; filename=\"a b.png\"\r\n\r\n\x89PNG\r\n--abc--\r\n";
        let elsewhere: &[u8] =
            b"--abc\r\n\r\n{}\r\n--abc\r\nLocation: https://cdn.example/x\r\n\r\n\r\n--abc--";
        let words: &[&[u8]] =
            &[b"\r\n", b"--abc", b"\r\n--abc", b"--", b"\r\n\r\n", b"Location: ", b":", b"\0"];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        hearth_fuzz::fuzz(&[whole, elsewhere], words, |input| {
            let read_in = |size| runtime.block_on(read(input, size)).map(|(_, body)| body);
            let found = read_in(input.len().max(1));
            if let (Ok(one), Ok(many)) = (&found, read_in(7)) {
                assert_eq!(one, &many, "however it is cut into chunks");
            }
            if let Ok(body) = &found {
                assert!(memmem::find(input, body).is_some(), "nothing is made up");
                assert!(memmem::find(body, b"\r\n--abc").is_none());
            }
            // What is put in comes out, whatever it is.
            if memmem::find(&[b"\r\n", input, b"\r\n--ab"].concat(), b"\r\n--abc").is_none() {
                let parts =
                    [&b"--abc\r\n\r\n{}\r\n--abc\r\n\r\n"[..], input, b"\r\n--abc--"].concat();
                let (_, body) = runtime.block_on(read(&parts, 1_000)).unwrap();
                assert_eq!(body, input);
            }
        });
    }
}
