use super::*;

fn wanted(width: u32, height: u32, method: &Method) -> Thumbnail {
    Thumbnail::new(UInt::from(width), UInt::from(height), Some(method), None).unwrap()
}

#[test]
fn requests_are_rounded_up() {
    let cases = [
        ((1, 1), Method::Scale, "32x32-scale"),
        ((32, 32), Method::Crop, "32x32-crop"),
        ((33, 700), Method::Scale, "48x800-scale"),
        ((200, 100), Method::Crop, "240x120-crop"),
        ((100, 300), Method::Crop, "107x320-crop"),
        ((1, 1_000), Method::Crop, "2x1200-crop"),
    ];
    for ((width, height), method, variant) in cases {
        assert_eq!(wanted(width, height, &method).variant(), variant);
    }
    let none = Thumbnail::new(UInt::from(0_u32), UInt::from(5_u32), None, None);
    assert_eq!(none, None);
    let moving = Thumbnail::new(UInt::MAX, UInt::from(5_u32), None, Some(true)).unwrap();
    assert_eq!(moving.variant(), format!("{}x32-scale-animated", u32::MAX));
    assert_eq!(moving.shape((60_000, 60_000)), Shape::Whole);
}

#[test]
fn scaled_ones_cover_what_is_asked_for_and_are_never_larger_than_the_original() {
    let cases = [
        ((320, 240), (3_200, 2_400), Shape::Scaled { width: 320, height: 240 }),
        ((320, 240), (3_200, 1_200), Shape::Scaled { width: 640, height: 240 }),
        ((320, 240), (1_000, 3_000), Shape::Scaled { width: 320, height: 960 }),
        ((320, 240), (320, 240), Shape::Whole),
        ((320, 240), (10, 10), Shape::Whole),
        ((320, 240), (9_000, 200), Shape::Whole),
        ((320, 240), (321, 241), Shape::Scaled { width: 320, height: 241 }),
    ];
    for ((width, height), size, shape) in cases {
        assert_eq!(wanted(width, height, &Method::Scale).shape(size), shape, "{size:?}");
    }
}

#[test]
fn cropped_ones_have_the_shape_that_is_asked_for() {
    let square = wanted(96, 96, &Method::Crop);
    let cases = [
        ((960, 480), Shape::Cropped { x: 240, y: 0, part: (480, 480), width: 96, height: 96 }),
        ((100, 400), Shape::Cropped { x: 0, y: 150, part: (100, 100), width: 96, height: 96 }),
        ((400, 50), Shape::Cropped { x: 175, y: 0, part: (50, 50), width: 50, height: 50 }),
        ((96, 96), Shape::Whole),
    ];
    for (size, shape) in cases {
        assert_eq!(square.shape(size), shape, "{size:?}");
    }
    for (width, height) in [(1, u32::MAX), (u32::MAX, 1), (u32::MAX, u32::MAX), (1, 1)] {
        // Whatever the numbers, the part lies within the picture.
        for side in [1, 97, u32::MAX] {
            let shape = wanted(side, 33, &Method::Crop).shape((width, height));
            if let Shape::Cropped { x, y, part, .. } = shape {
                assert!(part.0 > 0 && x <= width - part.0 && part.1 > 0 && y <= height - part.1);
            }
        }
    }
}
