use image::{Delay, ImageEncoder as _, Rgb, RgbImage, Rgba, RgbaImage, codecs::webp::WebPEncoder};
use ruma::{UInt, media::Method};

use super::*;

const MAX_PIXELS: u64 = 1_000_000;

fn wanted(width: u32, height: u32, method: &Method, animated: bool) -> Thumbnail {
    let (width, height) = (UInt::from(width), UInt::from(height));
    Thumbnail::new(width, height, Some(method), Some(animated)).unwrap()
}

fn scaled_to(width: u32, height: u32) -> Thumbnail {
    wanted(width, height, &Method::Scale, false)
}

/// Red on the left, blue on the right.
fn halves(width: u32, height: u32) -> DynamicImage {
    DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, |x, _| {
        if x < width / 2 { Rgb([250, 0, 0]) } else { Rgb([0, 0, 250]) }
    }))
}

fn written(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Frames of different colours.
fn animation(frames: u32, side: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, 30);
    for number in 0..frames {
        let shade = u8::try_from(number % 200).unwrap();
        let picture = RgbaImage::from_pixel(side, side, Rgba([shade, 50, 200 - shade, 255]));
        let delay = Delay::from_numer_denom_ms(70, 1);
        encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay)).unwrap();
    }
    drop(encoder);
    bytes
}

fn picture(made: Made) -> (&'static str, DynamicImage) {
    let Made::Picture(kind, bytes) = made else { panic!("the original") };
    (kind, image::load_from_memory(&bytes).unwrap())
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    GifDecoder::new(Cursor::new(bytes)).unwrap().into_frames().collect_frames().unwrap()
}

#[test]
fn every_known_format_is_made_smaller() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
        let source = written(&halves(400, 200), format);
        let (kind, small) = picture(make(&source, scaled_to(96, 96), MAX_PIXELS).unwrap());
        assert_eq!((small.width(), small.height()), (192, 96), "{format:?}");
        let transparent = format == ImageFormat::Gif;
        assert_eq!(kind, if transparent { PNG } else { JPEG }, "{format:?}");
        let small = small.to_rgb8();
        let (left, right) = (small.get_pixel(20, 50), small.get_pixel(170, 50));
        assert!(left[0] > 200 && left[2] < 50 && right[0] < 50 && right[2] > 200, "{format:?}");
    }
}

#[test]
fn what_is_transparent_stays_so() {
    let image = RgbaImage::from_pixel(100, 100, Rgba([1, 2, 3, 0]));
    let source = written(&DynamicImage::ImageRgba8(image), ImageFormat::Png);
    let (kind, small) = picture(make(&source, scaled_to(32, 32), MAX_PIXELS).unwrap());
    assert_eq!((kind, small.to_rgba8().get_pixel(5, 5)[3]), (PNG, 0));
}

#[test]
fn pictures_are_cut_from_their_middle() {
    let source = written(&halves(400, 100), ImageFormat::Png);
    let square = wanted(32, 32, &Method::Crop, false);
    let (_, small) = picture(make(&source, square, MAX_PIXELS).unwrap());
    assert_eq!((small.width(), small.height()), (32, 32));
    let small = small.to_rgb8();
    assert!(small.get_pixel(4, 16)[0] > 200 && small.get_pixel(28, 16)[2] > 200);
}

#[test]
fn what_is_small_stays_as_it_is() {
    for (format, kind) in
        [(ImageFormat::Png, PNG), (ImageFormat::Jpeg, JPEG), (ImageFormat::WebP, "image/webp")]
    {
        let source = written(&halves(30, 32), format);
        let made = make(&source, scaled_to(32, 32), MAX_PIXELS).unwrap();
        assert_eq!(made, Made::Original(kind));
    }
}

#[test]
fn pictures_taken_sideways_are_turned() {
    // One entry: the orientation, "turn it to the right".
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let mut source = Vec::new();
    let mut encoder = JpegEncoder::new(&mut source);
    encoder.set_exif_metadata(exif.to_vec()).unwrap();
    encoder.encode_image(&halves(400, 200)).unwrap();
    let (_, small) = picture(make(&source, scaled_to(96, 96), MAX_PIXELS).unwrap());
    assert_eq!((small.width(), small.height()), (96, 192));
    let small = small.to_rgb8();
    assert!(small.get_pixel(50, 20)[0] > 200 && small.get_pixel(50, 170)[2] > 200);
}

#[test]
fn animations_move_only_when_asked_to() {
    let source = animation(3, 64);
    let moving = wanted(32, 32, &Method::Scale, true);
    let Made::Picture(kind, made) = make(&source, moving, MAX_PIXELS).unwrap() else { panic!() };
    let made = frames(&made);
    assert_eq!((kind, made.len()), (GIF, 3));
    assert!(made.iter().all(|frame| frame.buffer().dimensions() == (32, 32)));
    assert_eq!(made[0].delay().numer_denom_ms(), (70, 1));
    let (kind, _) = picture(make(&source, scaled_to(32, 32), MAX_PIXELS).unwrap());
    assert_eq!(kind, PNG);

    let large = |animated| wanted(96, 96, &Method::Scale, animated);
    assert_eq!(make(&source, large(true), MAX_PIXELS).unwrap(), Made::Original(GIF));
    let (kind, still) = picture(make(&source, large(false), MAX_PIXELS).unwrap());
    assert_eq!((kind, still.width()), (PNG, 64), "not larger, and not moving either");
}

#[test]
fn animations_that_are_too_long_or_cut_short_are_shown_as_far_as_they_go() {
    let moving = wanted(32, 32, &Method::Scale, true);
    let long = animation(u32::try_from(MAX_FRAMES).unwrap() + 1, 40);
    let (kind, _) = picture(make(&long, moving, MAX_PIXELS).unwrap());
    assert_eq!(kind, PNG, "the first frame");
    let one = animation(1, 64);
    assert_eq!(picture(make(&one, moving, MAX_PIXELS).unwrap()).0, PNG);
    let mut cut = animation(5, 64);
    cut.truncate(cut.len() - 20);
    let Made::Picture(kind, made) = make(&cut, moving, MAX_PIXELS).unwrap() else { panic!() };
    assert_eq!((kind, frames(&made).len()), (GIF, 4));
}

/// The check sum of PNG's chunks.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 }
        })
    })
}

#[test]
fn bombs_are_refused_by_what_their_headers_say() {
    let small = halves(40, 40);
    let mut png = written(&small, ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0x80, 0, 0, 0, 0x80, 0]);
    let sum = crc(&png[12..29]).to_be_bytes();
    png[29..33].copy_from_slice(&sum);
    let mut jpeg = written(&small, ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|bytes| bytes == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    let mut gif = written(&small, ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0xff; 4]);
    let mut webp = Vec::new();
    let encoder = WebPEncoder::new_lossless(&mut webp);
    encoder.write_image(&small.to_rgb8(), 40, 40, image::ExtendedColorType::Rgb8).unwrap();
    let size = webp.windows(4).position(|bytes| bytes == b"VP8L").unwrap() + 9;
    webp[size..size + 4].copy_from_slice(&[0xfe, 0xbf, 0xff, 0x0f]);
    for (name, bomb) in [("png", png), ("jpeg", jpeg), ("gif", gif), ("webp", webp)] {
        let made = make(&bomb, scaled_to(32, 32), 40_000_000);
        assert_eq!(made, Err(PictureError::TooLarge), "{name}");
    }
    let source = written(&halves(101, 100), ImageFormat::Png);
    assert!(make(&source, scaled_to(32, 32), 10_100).is_ok());
    assert_eq!(make(&source, scaled_to(32, 32), 10_099), Err(PictureError::TooLarge));
}

/// Where a GIF's frame says how large it is.
fn gif_frame(gif: &[u8]) -> usize {
    gif.windows(5).position(|bytes| bytes == [0x2c, 0, 0, 0, 0]).unwrap() + 5
}

#[test]
fn frames_that_are_larger_than_their_picture_are_refused_before_they_are_decoded() {
    let mut gif = animation(3, 64);
    let layout = layout::of_gif(&gif);
    let expected = Layout { frames: 3, first: 64 * 64, largest: 64 * 64, work: 3 * 64 * 64 };
    assert_eq!(layout, expected);
    let first = gif_frame(&gif);
    let second = first + 4 + gif_frame(&gif[first + 4..]);
    gif[second..second + 4].copy_from_slice(&[0xff; 4]);
    assert_eq!(layout::of_gif(&gif).largest, 0xffff * 0xffff);
    let moving = wanted(32, 32, &Method::Scale, true);
    assert_eq!(picture(make(&gif, moving, MAX_PIXELS).unwrap()).0, PNG, "only the first one");
    gif[first..first + 4].copy_from_slice(&[0xff; 4]);
    for asked in [moving, scaled_to(32, 32)] {
        assert_eq!(make(&gif, asked, MAX_PIXELS), Err(PictureError::TooLarge));
    }
}

#[test]
fn many_frames_that_are_larger_than_their_picture_count_as_what_they_are() {
    let mut gif = animation(120, 40);
    let mut at = 0;
    while let Some(frame) = gif[at..].windows(5).position(|bytes| bytes == [0x2c, 0, 0, 0, 0]) {
        at += frame + 5;
        // 1,000 by 1,000: each of them is allowed.
        gif[at..at + 4].copy_from_slice(&[0xe8, 3, 0xe8, 3]);
    }
    let layout = layout::of_gif(&gif);
    assert_eq!((layout.frames, layout.work), (120, 120_000_000));
    let picture = Picture::open(&gif, MAX_PIXELS).unwrap();
    assert!(!picture.may_move());
    assert!(picture.animation(Shape::Scaled { width: 32, height: 32 }).unwrap().is_none());
}

/// A chunk of a WebP.
fn chunk(name: [u8; 4], content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_le_bytes();
    let padding = if content.len() % 2 == 1 { &[0][..] } else { &[] };
    [&name, &length[..], content, padding].concat()
}

/// The beginning of lossy colours that are as large as can be.
fn huge_colours() -> Vec<u8> {
    [&[0x10, 0, 0, 0x9d, 1, 0x2a][..], &[0xff, 0x3f, 0xff, 0x3f], &[0; 32]].concat()
}

#[test]
fn colours_of_a_webp_that_are_larger_than_their_place_are_refused_before_they_are_decoded() {
    let side = [39, 0, 0];
    let whole = |flags: u8| chunk(*b"VP8X", &[&[flags, 0, 0, 0][..], &side, &side].concat());
    let colours = chunk(*b"VP8 ", &huge_colours());
    let alpha = chunk(*b"ALPH", &[0; 4]);
    let unnamed = chunk(*b"what", &huge_colours());
    let frame = |parts: &[u8]| {
        let header = [&[0; 6][..], &side, &side, &[0; 4]].concat();
        chunk(*b"ANMF", &[&header, parts].concat())
    };
    let control = chunk(*b"ANIM", &[0; 6]);
    for (case, parts) in [
        ("still", [whole(0), colours.clone()].concat()),
        ("moving", [whole(2), control.clone(), frame(&colours)].concat()),
        ("moving, transparent", [whole(2), control, frame(&[alpha, unnamed].concat())].concat()),
    ] {
        let length = u32::try_from(parts.len() + 4).unwrap().to_le_bytes();
        let file = [b"RIFF", &length[..], b"WEBP", &parts].concat();
        // Without the check they would be decoded first: the decoder finds nothing wrong up to there.
        assert_eq!(layout::of_webp(&file, (16_383, 16_383)).is_ok(), case == "still", "{case}");
        assert_eq!(layout::of_webp(&file, (40, 40)), Err(PictureError::NoPicture), "{case}");
        assert!(matches!(Picture::open(&file, MAX_PIXELS), Err(PictureError::NoPicture)), "{case}");
    }
    let real = written(&halves(40, 40), ImageFormat::WebP);
    assert_eq!(layout::of_webp(&real, (40, 40)), Ok(Layout::default()));
}

#[test]
fn what_is_no_picture_is_not_made_smaller() {
    let mut broken = written(&halves(100, 100), ImageFormat::Png);
    broken.truncate(60);
    let no_pictures: [&[u8]; 6] =
        [b"", b"<svg/>", b"<html>", b"\x89PNG\r\n\x1a\n and so on", b"BM\x46\0\0\0", &broken];
    for source in no_pictures {
        let made = make(source, scaled_to(32, 32), MAX_PIXELS);
        assert_eq!(made, Err(PictureError::NoPicture), "{source:?}");
    }
}

#[test]
fn fuzz_thumbnails() {
    let formats = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP];
    let mut seeds: Vec<_> =
        formats.iter().map(|format| written(&halves(80, 60), *format)).collect();
    seeds.push(animation(3, 50));
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    let words: &[&[u8]] = &[
        b"IHDR",
        b"IDAT",
        b"acTL",
        b"fcTL",
        b"IEND",
        b"iCCP",
        b"\xff\xd8",
        b"\xff\xc0",
        b"\xff\xda",
        b"VP8X",
        b"ANIM",
        b"ANMF",
        b"GIF89a",
        b"NETSCAPE2.0",
        b"\x21\xf9\x04",
        b"\x2c",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x01",
    ];
    let max_pixels = 1 << 16;
    hearth_fuzz::fuzz(&seeds, words, |input| {
        for asked in [wanted(32, 32, &Method::Scale, false), wanted(32, 32, &Method::Crop, true)] {
            match make(input, asked, max_pixels) {
                Ok(Made::Picture(_, bytes)) => {
                    let seen = seen_size(input, max_pixels).unwrap();
                    let made = seen_size(&bytes, max_pixels).unwrap();
                    assert!(made.0 <= seen.0 && made.1 <= seen.1, "{made:?} of {seen:?}");
                    assert!(pixels(seen) <= max_pixels);
                }
                Ok(Made::Original(_)) => assert!(seen_size(input, max_pixels).is_some()),
                Err(PictureError::NoPicture | PictureError::TooLarge) => {}
            }
        }
    });
}
