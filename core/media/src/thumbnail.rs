//! Thumbnails (CS "Thumbnails"): made when they are asked for first, then kept as content of other servers is.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hearth_storage::run_blocking;
use ruma::{UInt, UserId, media::Method};

use crate::{
    Content, ContentUri, Media, MediaError, PART_BYTES,
    picture::{self, Made, PictureError},
    schema::ContentRow,
};

/// Thumbnails that are made at once: each holds its original in memory, as a file and as pixels.
pub(crate) const MAX_MAKING: usize = 2;
/// Requests whose original is here, and which wait for the thumbnail to be made: each holds its original open. Further
/// ones are refused.
pub(crate) const MAX_WANTING: usize = 256;
/// The largest file of which a thumbnail is made.
const MAX_SOURCE_BYTES: u64 = 32 << 20;
/// The sides that thumbnails have, in pixels: a request is rounded up, so that many requests share few thumbnails.
/// A request beyond the last gets the original's size.
const SIDES: [u32; 11] = [32, 48, 96, 160, 240, 320, 480, 640, 800, 1_200, 1_600];
/// What thumbnails are called.
const FILE_NAME: &str = "thumbnail";

/// The thumbnail that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thumbnail {
    width: u32,
    height: u32,
    crop: bool,
    pub(crate) animated: bool,
}

/// What is to be done with a picture of a known size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing: it is not larger than what is asked for.
    Whole,
    /// It is made this size.
    Scaled { width: u32, height: u32 },
    /// This part of it is made this size.
    Cropped { x: u32, y: u32, part: (u32, u32), width: u32, height: u32 },
}

impl Thumbnail {
    /// The thumbnail for these parameters of a request; `None` if they make no sense.
    #[must_use]
    pub fn new(
        width: UInt,
        height: UInt,
        method: Option<&Method>,
        animated: Option<bool>,
    ) -> Option<Self> {
        let side = |side: UInt| u32::try_from(u64::from(side)).unwrap_or(u32::MAX);
        let (width, height) = (side(width), side(height));
        let crop = matches!(method, Some(Method::Crop));
        let wanted = Self { width, height, crop, animated: animated.unwrap_or_default() };
        (width > 0 && height > 0).then(|| wanted.rounded())
    }

    /// The next larger thumbnail that is made. A cropped one keeps the shape that is asked for.
    fn rounded(self) -> Self {
        let up = |side: u32| SIDES.into_iter().find(|made| *made >= side).unwrap_or(u32::MAX);
        let (width, height) = if !self.crop {
            (up(self.width), up(self.height))
        } else if self.width >= self.height {
            let width = up(self.width);
            (width, portion(width, self.height, self.width))
        } else {
            let height = up(self.height);
            (portion(height, self.width, self.height), height)
        };
        Self { width, height, ..self }
    }

    /// What to do with a picture of this size. It is never made larger; and never smaller than what is asked for.
    pub(crate) fn shape(self, (width, height): (u32, u32)) -> Shape {
        if width <= self.width && height <= self.height {
            return Shape::Whole;
        }
        if self.crop {
            return self.cropped(width, height);
        }
        if width <= self.width || height <= self.height {
            return Shape::Whole;
        }
        // The picture covers what is asked for.
        let by_width = portion(self.width, height, width);
        if by_width >= self.height {
            return Shape::Scaled { width: self.width, height: by_width };
        }
        Shape::Scaled { width: portion(self.height, width, height), height: self.height }
    }

    /// The middle of the picture, in the shape that is asked for.
    fn cropped(self, width: u32, height: u32) -> Shape {
        let part_width = width.min(portion(height, self.width, self.height));
        let part_height = height.min(portion(width, self.height, self.width));
        let part = (part_width, part_height);
        let (x, y) = ((width - part_width) / 2, (height - part_height) / 2);
        let (width, height) = (part_width.min(self.width), part_height.min(self.height));
        Shape::Cropped { x, y, part, width, height }
    }

    /// What is kept of it is filed under this name.
    fn variant(self) -> String {
        let Self { width, height, .. } = self;
        let method = if self.crop { "crop" } else { "scale" };
        let animated = if self.animated { "-animated" } else { "" };
        format!("{width}x{height}-{method}{animated}")
    }
}

/// `side * of / whole`, rounded up, at least 1.
fn portion(side: u32, of: u32, whole: u32) -> u32 {
    let whole = u64::from(whole.max(1));
    let portion = u64::from(side).saturating_mul(u64::from(of)).div_ceil(whole);
    u32::try_from(portion.max(1)).unwrap_or(u32::MAX)
}

impl Media {
    /// A thumbnail of what is behind a URI: of this server, or fetched from another one for this user. Waits so long for
    /// what is not uploaded yet.
    pub async fn thumbnail(
        &self,
        user_id: &UserId,
        uri: &ContentUri,
        wanted: Thumbnail,
        wait: Duration,
    ) -> Result<Content, MediaError> {
        self.thumbnail_of(uri, wanted, || self.content(user_id, uri, wait)).await
    }

    /// The same for content of this server only: what another server may ask for.
    pub async fn local_thumbnail(
        &self,
        uri: &ContentUri,
        wanted: Thumbnail,
        wait: Duration,
    ) -> Result<Content, MediaError> {
        if uri.server_name() != self.identity().server_name() {
            return Err(MediaError::NotFound);
        }
        self.thumbnail_of(uri, wanted, || self.local_content(uri, wait)).await
    }

    /// A thumbnail that is kept, or one of the original.
    async fn thumbnail_of<F>(
        &self,
        uri: &ContentUri,
        wanted: Thumbnail,
        original: impl Fn() -> F,
    ) -> Result<Content, MediaError>
    where
        F: Future<Output = Result<Content, MediaError>>,
    {
        let thumbnail = uri.thumbnail(&wanted.variant());
        if let Some(kept) = self.kept(&thumbnail).await? {
            return Ok(kept);
        }
        let found = original().await?;
        // Only now: another server may take its time, and what is here already must not wait for it.
        let wanting = self.inner().wanting.try_acquire();
        let place = wanting.map_err(|_| MediaError::Busy("Too many thumbnails are being made"))?;
        let turn = self.inner().makers.lock(&thumbnail.to_string()).await;
        if let Some(kept) = self.kept(&thumbnail).await? {
            return Ok(kept);
        }
        match self.made(uri, found, wanted).await? {
            Made::Original(content_type) => {
                drop((turn, place));
                let content_type = content_type.to_owned();
                Ok(Content { content_type, inline: true, ..original().await? })
            }
            Made::Picture(content_type, bytes) => {
                self.keep_thumbnail(thumbnail, content_type, bytes.into()).await
            }
        }
    }

    /// Makes the thumbnail, off the threads that serve requests.
    async fn made(
        &self,
        uri: &ContentUri,
        original: Content,
        wanted: Thumbnail,
    ) -> Result<Made, MediaError> {
        let stopping = |_| MediaError::Internal("this server is stopping".to_owned());
        let place = self.inner().making.clone().acquire_owned().await.map_err(stopping)?;
        let is_remote = uri.server_name() != self.identity().server_name();
        let too_large =
            if is_remote { MediaError::RemoteTooLarge } else { MediaError::PictureTooLarge };
        if original.bytes > MAX_SOURCE_BYTES {
            return Err(too_large);
        }
        let Some(source) = picture_bytes(original).await? else {
            return Err(MediaError::NoPicture);
        };
        let max_pixels = self.config().max_thumbnail_pixels;
        let made = run_blocking(move || {
            // Held until the work ends, even if nobody waits for it any more.
            let _place = place;
            picture::make(&source, wanted, max_pixels)
        });
        match made.await {
            Ok(Ok(made)) => Ok(made),
            Ok(Err(PictureError::TooLarge)) => Err(too_large),
            Ok(Err(PictureError::NoPicture)) => Err(MediaError::NoPicture),
            Err(error) => {
                tracing::warn!(%error, %uri, "a picture broke its decoder");
                Err(MediaError::NoPicture)
            }
        }
    }

    /// Keeps a thumbnail for the next who asks, and serves it.
    async fn keep_thumbnail(
        &self,
        thumbnail: ContentUri,
        content_type: &str,
        picture: Bytes,
    ) -> Result<Content, MediaError> {
        let extension = content_type.rsplit('/').next().unwrap_or_default();
        let (content_type, file_name) =
            (content_type.to_owned(), Some(format!("{FILE_NAME}.{extension}")));
        let bytes = u64::try_from(picture.len()).unwrap_or(u64::MAX);
        let content = Content {
            bytes,
            content_type: content_type.clone(),
            file_name: file_name.clone(),
            inline: true,
            body: parts(picture.clone()),
        };
        let media = self.clone();
        let kept = self.detached(async move {
            let mut staged = media.blobs().stage().await?;
            staged.write(picture).await?;
            let whole = staged.finish().await?;
            let row = ContentRow {
                hash: whole.hash,
                bytes,
                content_type,
                file_name,
                inline: true,
                stored_ms: media.now_ms(),
            };
            media.cache(&thumbnail, whole, row).await
        });
        kept.await?;
        Ok(content)
    }
}

/// The bytes in parts, as they are read from the disk.
fn parts(bytes: Bytes) -> crate::ContentStream {
    let next = |mut rest: Bytes| {
        (!rest.is_empty()).then(|| (Ok(rest.split_to(rest.len().min(PART_BYTES))), rest))
    };
    stream::unfold(bytes, move |rest| std::future::ready(next(rest))).boxed()
}

/// All bytes of a picture; `None` as soon as they are seen to be of none.
async fn picture_bytes(original: Content) -> Result<Option<Vec<u8>>, MediaError> {
    let mut bytes = Vec::new();
    let mut body = original.body;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| MediaError::Internal(error.to_string()))?;
        if bytes.is_empty() && !picture::is_picture(&chunk) {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((!bytes.is_empty()).then_some(bytes))
}

#[cfg(test)]
mod tests;
