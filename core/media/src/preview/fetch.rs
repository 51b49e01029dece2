//! Reading a page and its picture.

use futures_util::StreamExt as _;
use hearth_storage::run_blocking;
use http::{HeaderMap, Request, Response, header};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{
    PreviewConfig, Web, WebError, charset,
    page::{self, MIN_SHOWN_SIDE, Page},
    target::Target,
};
use crate::{
    ContentStream, ContentUri, Media,
    kinds::{self, HEAD_BYTES},
    picture,
    schema::ContentRow,
};

/// Redirects that are followed, for a page and for its picture.
const MAX_REDIRECTS: usize = 5;
/// Bytes of a picture's beginning in which its size is looked for: behind the colours and the camera's notes.
const MAX_HEADER_BYTES: usize = 256 * 1_024;
/// Who asks.
const USER_AGENT: &str = concat!("Hearth/", env!("CARGO_PKG_VERSION"), " (bot; link previews)");
/// What is asked for where a page is wanted.
const PAGE: &str = "text/html,application/xhtml+xml,image/*;q=0.8,*/*;q=0.5";
/// What is asked for where a picture is wanted.
const PICTURE: &str = "image/*";

/// A picture of a preview, kept.
struct Picture {
    uri: ContentUri,
    content_type: &'static str,
    bytes: u64,
    size: Option<(u32, u32)>,
}

impl Media {
    /// Reads a page, and its picture if it has one that can be read.
    pub(super) async fn made_preview(
        &self,
        target: &Target,
        language: Option<&str>,
        web: &dyn Web,
    ) -> Result<Map<String, Value>, WebError> {
        let visit = Visit { media: self, language, web };
        let limit = visit.config().timeout();
        let late = |_| WebError("it did not arrive in time".to_owned());
        let (found, at) = timeout(limit, visit.find(target)).await.map_err(late)??;
        let (page, picture) = match found {
            Thing::Page(mut page) => {
                let picture = timeout(limit, visit.picture_of(&mut page, &at)).await.ok().flatten();
                (page, picture)
            }
            Thing::Picture(picture) => (Page::default(), Some(picture)),
            Thing::Other => (Page::default(), None),
        };
        Ok(told(page, picture))
    }
}

/// What a URL led to.
enum Thing {
    Page(Page),
    Picture(Picture),
    Other,
}

/// One preview's way through the web.
struct Visit<'a> {
    media: &'a Media,
    language: Option<&'a str>,
    web: &'a dyn Web,
}

impl Visit<'_> {
    fn config(&self) -> &PreviewConfig {
        &self.media.config().previews
    }

    /// What is behind a URL, and where it was found in the end.
    async fn find(&self, target: &Target) -> Result<(Thing, Target), WebError> {
        let (response, at) = self.open(target, PAGE).await?;
        let content_type = text_of(response.headers(), &header::CONTENT_TYPE).to_owned();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let thing = match essence.to_ascii_lowercase().as_str() {
            "text/html" | "application/xhtml+xml" | "" => {
                Thing::Page(self.page(response.into_body(), content_type).await?)
            }
            kind if kind.starts_with("image/") => {
                self.picture(response, 0).await?.map_or(Thing::Other, Thing::Picture)
            }
            _ => Thing::Other,
        };
        Ok((thing, at))
    }

    /// Asks for a URL, and for those that it redirects to.
    async fn open(
        &self,
        target: &Target,
        accept: &'static str,
    ) -> Result<(Response<ContentStream>, Target), WebError> {
        let mut target = target.clone();
        for _ in 0..=MAX_REDIRECTS {
            let request = self.request(&target, accept)?;
            let response = self.web.get(request, self.config().timeout()).await?;
            if response.status().is_redirection() {
                let to = text_of(response.headers(), &header::LOCATION);
                let next = target.join(to, self.config());
                target = next.map_err(|why| WebError(format!("{to:?}: {why}")))?;
                continue;
            }
            if !response.status().is_success() {
                return Err(WebError(format!("it answered {}", response.status())));
            }
            // None was asked for: what is small here could be large when it is decoded.
            let encoding = text_of(response.headers(), &header::CONTENT_ENCODING);
            if !matches!(encoding, "" | "identity") {
                return Err(WebError(format!("it is encoded as {encoding:?}")));
            }
            return Ok((response, target));
        }
        Err(WebError(format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn request(&self, target: &Target, accept: &'static str) -> Result<Request<()>, WebError> {
        let mut request = Request::get(target.url().as_str())
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, accept)
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(language) = self.language {
            request = request.header(header::ACCEPT_LANGUAGE, language);
        }
        request.body(()).map_err(|error| WebError(error.to_string()))
    }

    /// Reads as much of a page as may be read, and takes it apart off the threads that serve requests.
    async fn page(&self, mut body: ContentStream, content_type: String) -> Result<Page, WebError> {
        let max_bytes = usize::try_from(self.config().max_page_bytes).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| WebError(error.to_string()))?;
            let room = max_bytes.saturating_sub(bytes.len()).min(chunk.len());
            bytes.extend_from_slice(chunk.get(..room).unwrap_or_default());
            if bytes.len() >= max_bytes {
                break;
            }
        }
        drop(body);
        let read = run_blocking(move || page::read(&charset::decoded(&bytes, &content_type)));
        read.await.map_err(|error| WebError(error.to_string()))
    }

    /// A picture that the page says is its own, else one that it shows.
    async fn picture_of(&self, page: &mut Page, at: &Target) -> Option<Picture> {
        let own = self.first_of(&page.images, 0, at).await;
        if own.is_some() {
            return own;
        }
        // That is about its own one.
        page.properties.remove("og:image:alt");
        self.first_of(&page.shown, MIN_SHOWN_SIDE, at).await
    }

    /// The first picture that can be read, and has so many pixels on both sides.
    async fn first_of(&self, addresses: &[String], min_side: u32, at: &Target) -> Option<Picture> {
        for address in addresses {
            let picture = async {
                let refused = |why: &'static str| WebError(why.to_owned());
                let target = at.join(address, self.config()).map_err(refused)?;
                let (response, _) = self.open(&target, PICTURE).await?;
                self.picture(response, min_side).await
            };
            match picture.await {
                Ok(Some(picture)) => return Some(picture),
                Ok(None) => tracing::debug!(address, "it is no picture, or a small one"),
                Err(error) => tracing::debug!(address, %error, "a page's picture cannot be had"),
            }
        }
        None
    }

    /// Keeps a picture; `None` if it is none that can be shown, or has not so many pixels on both sides.
    async fn picture(
        &self,
        response: Response<ContentStream>,
        min_side: u32,
    ) -> Result<Option<Picture>, WebError> {
        let failed = |error: &dyn std::fmt::Display| WebError(error.to_string());
        let media = self.media;
        let max_bytes = self.config().max_image_bytes.min(media.config().cache_bytes);
        let mut staged = media.blobs().stage().await.map_err(|error| failed(&error))?;
        let (mut head, mut body) = (Vec::new(), response.into_body());
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| failed(&error))?;
            let more = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if staged.bytes().saturating_add(more) > max_bytes {
                return Err(WebError("its picture is too large".to_owned()));
            }
            let room = MAX_HEADER_BYTES.saturating_sub(head.len()).min(chunk.len());
            head.extend_from_slice(chunk.get(..room).unwrap_or_default());
            if head.len() >= HEAD_BYTES && kinds::picture_type(&head).is_none() {
                return Ok(None);
            }
            staged.write(chunk).await.map_err(|error| failed(&error))?;
        }
        let Some(content_type) = kinds::picture_type(&head) else { return Ok(None) };
        let max_pixels = media.config().max_thumbnail_pixels;
        let size = run_blocking(move || picture::seen_size(&head, max_pixels));
        // A header that breaks its decoder is that of a picture whose size is not known.
        let size = size.await.ok().flatten();
        let (width, height) = size.unwrap_or_default();
        if width.min(height) < min_side {
            return Ok(None);
        }
        let kept = media.keep_picture(staged, content_type).await;
        let (uri, bytes) = kept.map_err(|error| failed(&error))?;
        Ok(Some(Picture { uri, content_type, bytes, size }))
    }
}

impl Media {
    /// Makes bytes an item that nobody uploaded, under a URI of its own.
    async fn keep_picture(
        &self,
        staged: crate::blobs::Staged,
        content_type: &'static str,
    ) -> Result<(ContentUri, u64), crate::MediaError> {
        let media = self.clone();
        self.detached(async move {
            let whole = staged.finish().await?;
            let uri = ContentUri::random(media.identity().server_name())?;
            let bytes = whole.bytes;
            let row = ContentRow {
                hash: whole.hash,
                bytes,
                content_type: content_type.to_owned(),
                file_name: None,
                inline: true,
                stored_ms: media.now_ms(),
            };
            media.cache(&uri, whole, row).await?;
            Ok((uri, bytes))
        })
        .await
    }
}

/// What clients are told of a page.
fn told(page: Page, picture: Option<Picture>) -> Map<String, Value> {
    let mut told: Map<String, Value> =
        page.properties.into_iter().map(|(name, value)| (name, value.into())).collect();
    let Some(picture) = picture else {
        told.remove("og:image:alt");
        return told;
    };
    told.insert("og:image".to_owned(), picture.uri.to_string().into());
    told.insert("og:image:type".to_owned(), picture.content_type.into());
    told.insert("matrix:image:size".to_owned(), picture.bytes.into());
    if let Some((width, height)) = picture.size {
        told.insert("og:image:width".to_owned(), width.into());
        told.insert("og:image:height".to_owned(), height.into());
    }
    told
}

fn text_of<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).map_or("", str::trim)
}
