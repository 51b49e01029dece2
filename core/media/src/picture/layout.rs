//! What GIF and WebP files say of each of their frames, read before any is decoded: decoders go by a frame's own
//! size, which need not be what the file's header says. As far as a file goes that breaks off.

use super::PictureError;

/// Bytes of a GIF before its first colours: the signature, and the size of the whole.
const GIF_HEADER_BYTES: usize = 13;
/// Bytes of a WebP before its first chunk.
const WEBP_HEADER_BYTES: usize = 12;
/// Bytes of a chunk before what is in it.
const CHUNK_HEADER_BYTES: usize = 8;
/// Bytes of a WebP's frame before its chunks.
const ANMF_HEADER_BYTES: usize = 16;

/// The frames of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// How many there are.
    pub(super) frames: u64,
    /// The pixels of the first one.
    pub(super) first: u64,
    /// Those of the largest one.
    pub(super) largest: u64,
    /// What it takes to show them all, in pixels: for each its own, or the whole picture's if those are more.
    pub(super) work: u64,
}

impl Layout {
    fn add(&mut self, frame: u64, whole: u64) {
        if self.frames == 0 {
            self.first = frame;
        }
        self.frames = self.frames.saturating_add(1);
        self.largest = self.largest.max(frame);
        self.work = self.work.saturating_add(frame.max(whole));
    }
}

/// The frames of a GIF (GIF89a, sections 17 to 27).
pub(super) fn of_gif(source: &[u8]) -> Layout {
    let mut layout = Layout::default();
    // What ends too early has shown its last frame.
    let _end = walk_gif(source, &mut layout);
    layout
}

fn walk_gif(source: &[u8], layout: &mut Layout) -> Option<()> {
    let whole = area(u16_at(source, 6)?, u16_at(source, 8)?);
    let mut at = GIF_HEADER_BYTES + colours(*source.get(10)?);
    loop {
        match *source.get(at)? {
            // An extension: a label, and blocks.
            0x21 => at = after_blocks(source, at + 2)?,
            // A frame: its place and size, colours, the length of codes, and blocks.
            0x2c => {
                layout.add(area(u16_at(source, at + 5)?, u16_at(source, at + 7)?), whole);
                let colours = colours(*source.get(at + 9)?);
                at = after_blocks(source, at + 11 + colours)?;
            }
            _ => return None,
        }
    }
}

/// The bytes of a table of colours, by the flags that announce it.
fn colours(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) }
}

/// The place behind blocks of data, the last of which is empty.
fn after_blocks(source: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*source.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}

/// The frames of a WebP (RFC 9649, section 2.7). Refused are those in which a lossy frame is of another size than its
/// place: it would be decoded to its end before that is found.
pub(super) fn of_webp(source: &[u8], size: (u32, u32)) -> Result<Layout, PictureError> {
    let whole = area(size.0, size.1);
    let mut layout = Layout::default();
    let mut at = WEBP_HEADER_BYTES;
    while let Some(chunk) = Chunk::at(source, at) {
        match chunk.name {
            b"VP8 " => chunk.must_be(size)?,
            b"ANMF" => {
                let (Some(width), Some(height)) =
                    (u24_at(source, chunk.start + 6), u24_at(source, chunk.start + 9))
                else {
                    break;
                };
                let frame = (width + 1, height + 1);
                layout.add(area(frame.0, frame.1), whole);
                frame_must_be(source, chunk.start + ANMF_HEADER_BYTES, frame)?;
            }
            _ => {}
        }
        at = chunk.end;
    }
    Ok(layout)
}

/// A frame of an animation has its colours in its first chunk, or transparency there and colours in the second.
fn frame_must_be(source: &[u8], at: usize, frame: (u32, u32)) -> Result<(), PictureError> {
    match Chunk::at(source, at) {
        Some(chunk) if chunk.name == b"VP8 " => chunk.must_be(frame),
        // What comes then is taken for colours whatever it is called.
        Some(chunk) if chunk.name == b"ALPH" => {
            Chunk::at(source, chunk.end).map_or(Ok(()), |colours| colours.must_be(frame))
        }
        _ => Ok(()),
    }
}

/// A part of a WebP.
struct Chunk<'a> {
    source: &'a [u8],
    name: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> Chunk<'a> {
    fn at(source: &'a [u8], at: usize) -> Option<Self> {
        let name = source.get(at..at.checked_add(4)?)?;
        let length = source.get(at + 4..at + 8)?;
        let length = u32::from_le_bytes(length.try_into().ok()?);
        let length = usize::try_from(u64::from(length) + u64::from(length & 1)).ok()?;
        let start = at + CHUNK_HEADER_BYTES;
        Some(Self { source, name, start, end: start.checked_add(length)? })
    }

    /// The size of lossy colours (RFC 6386, section 9.1). What has none is no picture for any decoder.
    fn must_be(&self, size: (u32, u32)) -> Result<(), PictureError> {
        let pixels = |at| u16_at(self.source, at).map(|pixels| u32::from(pixels) & 0x3fff);
        match (pixels(self.start + 6), pixels(self.start + 8)) {
            (Some(width), Some(height)) if (width, height) != size => Err(PictureError::NoPicture),
            _ => Ok(()),
        }
    }
}

fn area(width: impl Into<u64>, height: impl Into<u64>) -> u64 {
    width.into().saturating_mul(height.into())
}

fn u16_at(source: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(source.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u24_at(source: &[u8], at: usize) -> Option<u32> {
    let [low, middle, high] = source.get(at..at.checked_add(3)?)?.try_into().ok()?;
    Some(u32::from_le_bytes([low, middle, high, 0]))
}
