//! Thumbnails of pictures that strangers made (CS "Thumbnails"): from bytes to bytes, with nothing else in between.
//!
//! How large a picture becomes is read from its header, and those of its frames, before any of it is decoded. What is
//! decoded afterwards is bounded in pixels, in frames and in what comes out.

mod layout;

use std::io::Cursor;

use image::{
    AnimationDecoder as _, DynamicImage, Frame, Frames, ImageDecoder, ImageError, ImageFormat,
    ImageReader, Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        png::PngDecoder,
        webp::WebPDecoder,
    },
    imageops::FilterType,
    metadata::Orientation,
};

use self::layout::Layout;
use crate::thumbnail::{Shape, Thumbnail};

/// Bytes that a decoder may hold for each pixel: two pictures of four channels, as animations need them.
const BYTES_PER_PIXEL: u64 = 8;
/// What decoders may hold beside pixels.
const DECODER_BYTES: u64 = 4 << 20;
/// Frames of an animation that are kept; a longer one is shown by its first frame.
const MAX_FRAMES: u64 = 400;
/// Pixels of all frames of an animation together; of a larger one only the first frame is shown. A few seconds of
/// work.
const MAX_ANIMATED_PIXELS: u64 = 100_000_000;
/// The largest animation that is made.
const MAX_ANIMATION_BYTES: usize = 8 << 20;
/// The speed at which colours are chosen for animations, from 1 (best) to 30.
const PALETTE_SPEED: i32 = 20;
/// The quality of pictures without transparency, of 100.
const JPEG_QUALITY: u8 = 82;

pub(crate) const PNG: &str = "image/png";
pub(crate) const JPEG: &str = "image/jpeg";
pub(crate) const GIF: &str = "image/gif";

/// What a thumbnail came out as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// The original is small enough, and is of this type.
    Original(&'static str),
    /// A picture of this type.
    Picture(&'static str, Vec<u8>),
}

/// Why there is no thumbnail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PictureError {
    /// It is no picture of a known format, or a broken one.
    NoPicture,
    /// It has too many pixels.
    TooLarge,
}

impl From<ImageError> for PictureError {
    fn from(error: ImageError) -> Self {
        if matches!(error, ImageError::Limits(_)) { Self::TooLarge } else { Self::NoPicture }
    }
}

/// May this be the beginning of a picture that can be made smaller?
pub(crate) fn is_picture(head: &[u8]) -> bool {
    format_of(head).is_some()
}

/// Makes a thumbnail of a picture of at most so many pixels.
pub(crate) fn make(
    source: &[u8],
    wanted: Thumbnail,
    max_pixels: u64,
) -> Result<Made, PictureError> {
    let picture = Picture::open(source, max_pixels)?;
    let shape = wanted.shape(picture.seen_size());
    let is_animated = picture.is_animated()?;
    if shape == Shape::Whole && (wanted.animated || !is_animated) {
        return Ok(Made::Original(picture.content_type()));
    }
    if is_animated
        && wanted.animated
        && let Some(animation) = picture.animation(shape)?
    {
        return Ok(Made::Picture(GIF, animation));
    }
    encoded(&shape.cut(picture.still()?))
}

/// The width and height at which a picture is to be shown, by its first bytes; `None` if these do not tell.
pub(crate) fn seen_size(head: &[u8], max_pixels: u64) -> Option<(u32, u32)> {
    Picture::open(head, max_pixels).ok().map(|picture| picture.seen_size())
}

fn format_of(head: &[u8]) -> Option<(ImageFormat, &'static str)> {
    match image::guess_format(head).ok()? {
        ImageFormat::Png => Some((ImageFormat::Png, PNG)),
        ImageFormat::Jpeg => Some((ImageFormat::Jpeg, JPEG)),
        ImageFormat::Gif => Some((ImageFormat::Gif, GIF)),
        ImageFormat::WebP => Some((ImageFormat::WebP, "image/webp")),
        _ => None,
    }
}

/// A picture whose header is read, and allowed.
struct Picture<'a> {
    source: &'a [u8],
    format: ImageFormat,
    content_type: &'static str,
    size: (u32, u32),
    orientation: Orientation,
    limits: Limits,
    max_pixels: u64,
    /// Its frames, where the header does not bound them.
    layout: Option<Layout>,
}

impl<'a> Picture<'a> {
    fn open(source: &'a [u8], max_pixels: u64) -> Result<Self, PictureError> {
        let (format, content_type) = format_of(source).ok_or(PictureError::NoPicture)?;
        let max_bytes = max_pixels.saturating_mul(BYTES_PER_PIXEL).saturating_add(DECODER_BYTES);
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(max_bytes);
        let mut decoder = decoder(source, format, &limits)?;
        let size = decoder.dimensions();
        if pixels(size) > max_pixels {
            return Err(PictureError::TooLarge);
        }
        if size.0 == 0 || size.1 == 0 {
            return Err(PictureError::NoPicture);
        }
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        drop(decoder);
        let layout = match format {
            ImageFormat::Gif => Some(layout::of_gif(source)),
            ImageFormat::WebP => Some(layout::of_webp(source, size)?),
            _ => None,
        };
        if layout.is_some_and(|layout| layout.first > max_pixels) {
            return Err(PictureError::TooLarge);
        }
        Ok(Self { source, format, content_type, size, orientation, limits, max_pixels, layout })
    }

    fn content_type(&self) -> &'static str {
        self.content_type
    }

    /// Its width and height as it is to be shown.
    fn seen_size(&self) -> (u32, u32) {
        let (width, height) = self.size;
        match self.orientation {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => (height, width),
            _ => (width, height),
        }
    }

    /// May it have several frames? Of the older format only its frames would tell.
    fn is_animated(&self) -> Result<bool, PictureError> {
        Ok(match self.format {
            ImageFormat::Gif => true,
            ImageFormat::WebP => WebPDecoder::new(Cursor::new(self.source))?.has_animation(),
            ImageFormat::Png => self.png()?.is_apng()?,
            _ => false,
        })
    }

    fn png(&self) -> Result<PngDecoder<Cursor<&'a [u8]>>, PictureError> {
        Ok(PngDecoder::with_limits(Cursor::new(self.source), self.limits.clone())?)
    }

    /// The picture, or the first frame of it, the right way up.
    fn still(&self) -> Result<DynamicImage, PictureError> {
        let decoder = decoder(self.source, self.format, &self.limits)?;
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(self.orientation);
        Ok(image)
    }

    /// All frames in this shape; `None` if that is too much, or if there is only one.
    fn animation(&self, shape: Shape) -> Result<Option<Vec<u8>>, PictureError> {
        if !self.may_move() {
            return Ok(None);
        }
        let budget = MAX_FRAMES.min(MAX_ANIMATED_PIXELS / pixels(self.size).max(1));
        let mut made = Vec::new();
        let mut encoder = GifEncoder::new_with_speed(&mut made, PALETTE_SPEED);
        encoder.set_repeat(Repeat::Infinite)?;
        let mut count = 0;
        // What an animation that breaks off has shown so far is an animation, too.
        for frame in self.frames()?.map_while(Result::ok) {
            count += 1;
            if count > budget {
                return Ok(None);
            }
            let delay = frame.delay();
            let small = shape.cut(DynamicImage::ImageRgba8(frame.into_buffer()));
            encoder.encode_frame(Frame::from_parts(small.into_rgba8(), 0, 0, delay))?;
        }
        drop(encoder);
        Ok((count > 1 && made.len() <= MAX_ANIMATION_BYTES).then_some(made))
    }

    /// Are its frames few and small enough to decode them all, by what they say themselves?
    fn may_move(&self) -> bool {
        self.layout.is_none_or(|layout| {
            layout.frames <= MAX_FRAMES
                && layout.largest <= self.max_pixels
                && layout.work <= MAX_ANIMATED_PIXELS
        })
    }

    fn frames(&self) -> Result<Frames<'a>, PictureError> {
        let source = Cursor::new(self.source);
        match self.format {
            ImageFormat::Gif => {
                let mut decoder = GifDecoder::new(source)?;
                decoder.set_limits(self.limits.clone())?;
                Ok(decoder.into_frames())
            }
            ImageFormat::WebP => Ok(WebPDecoder::new(source)?.into_frames()),
            ImageFormat::Png => Ok(self.png()?.apng()?.into_frames()),
            _ => Err(PictureError::NoPicture),
        }
    }
}

fn decoder<'a>(
    source: &'a [u8],
    format: ImageFormat,
    limits: &Limits,
) -> Result<impl ImageDecoder + 'a, PictureError> {
    let mut reader = ImageReader::with_format(Cursor::new(source), format);
    reader.limits(limits.clone());
    Ok(reader.into_decoder()?)
}

fn pixels((width, height): (u32, u32)) -> u64 {
    u64::from(width).saturating_mul(u64::from(height))
}

impl Shape {
    /// The picture in this shape.
    fn cut(self, image: DynamicImage) -> DynamicImage {
        match self {
            Self::Whole => image,
            Self::Scaled { width, height } => scaled(&image, width, height),
            Self::Cropped { x, y, part, width, height } => {
                let part = image.crop_imm(x, y, part.0, part.1);
                drop(image);
                scaled(&part, width, height)
            }
        }
    }
}

/// The picture in this size. A much larger one is first made smaller without care, which shows in nothing but the
/// time.
fn scaled(image: &DynamicImage, width: u32, height: u32) -> DynamicImage {
    if (image.width(), image.height()) == (width, height) {
        return image.clone();
    }
    let (rough_width, rough_height) = (width.saturating_mul(3), height.saturating_mul(3));
    if image.width() > rough_width && image.height() > rough_height {
        let rough = image.thumbnail_exact(rough_width, rough_height);
        return rough.resize_exact(width, height, FilterType::Triangle);
    }
    image.resize_exact(width, height, FilterType::Triangle)
}

fn encoded(image: &DynamicImage) -> Result<Made, PictureError> {
    let mut made = Cursor::new(Vec::new());
    if image.color().has_alpha() {
        DynamicImage::ImageRgba8(image.to_rgba8()).write_to(&mut made, ImageFormat::Png)?;
        return Ok(Made::Picture(PNG, made.into_inner()));
    }
    JpegEncoder::new_with_quality(&mut made, JPEG_QUALITY).encode_image(&image.to_rgb8())?;
    Ok(Made::Picture(JPEG, made.into_inner()))
}

#[cfg(test)]
mod tests;
