//! Keys sort as their parts do, and come back as they went in.

use std::fmt::Debug;

use hearth_storage::{KeyDecoder, KeyEncoder, KeyPart, Positioned, Record, postcard_record};
use hearth_types::StreamPosition;
use proptest::{collection::vec, option, prelude::*};
use ruma::{
    OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    OwnedTransactionId, OwnedUserId,
};
use serde::{Deserialize, Serialize};

fn encoded(part: &impl KeyPart) -> Vec<u8> {
    let mut out = KeyEncoder::default();
    part.encode(&mut out);
    out.as_bytes().to_vec()
}

fn keeps_order_and_comes_back<T: KeyPart + Ord + Debug>(left: &T, right: &T) {
    let (left_key, right_key) = (encoded(left), encoded(right));
    assert_eq!(left_key.cmp(&right_key), left.cmp(right), "{left:?} {right:?}");
    if left != right {
        assert!(!left_key.starts_with(&right_key), "{right:?} begins {left:?}");
        assert!(!right_key.starts_with(&left_key), "{left:?} begins {right:?}");
    }
    for (part, key) in [(left, left_key), (right, right_key)] {
        let mut input = KeyDecoder::new(&key);
        assert_eq!(T::decode(&mut input).unwrap(), *part);
        input.finish().unwrap();
    }
}

/// Few different characters, so that strings often begin alike.
fn text() -> impl Strategy<Value = String> {
    vec(prop::sample::select(vec!['\0', '\u{1}', 'a', 'b', 'ÿ', '\u{10FFFF}']), 0..6)
        .prop_map(String::from_iter)
}

fn tuple() -> impl Strategy<Value = (String, u32, Option<String>, bool, StreamPosition)> {
    let position = (0..1_u64 << 40).prop_map(StreamPosition::new);
    (text(), 0..4_u32, option::of(text()), any::<bool>(), position)
}

proptest! {
    #[test]
    fn composite_keys_sort_as_their_parts(left in tuple(), right in tuple()) {
        keeps_order_and_comes_back(&left, &right);
    }

    #[test]
    fn strings_sort_as_strings(left in text(), right in text()) {
        keeps_order_and_comes_back(&left, &right);
        keeps_order_and_comes_back(&(left.clone(), right.clone()), &(right, left));
    }

    #[test]
    fn numbers_sort_as_numbers(left: (u8, u16, u32, u64), right: (u8, u16, u32, u64)) {
        keeps_order_and_comes_back(&left, &right);
        keeps_order_and_comes_back(&(left.0, [left.0; 4]), &(right.0, [right.0; 4]));
    }

    #[test]
    fn any_bytes_decode_without_a_panic(bytes in vec(any::<u8>(), 0..64)) {
        let decodes = |bytes: &[u8]| {
            let mut input = KeyDecoder::new(bytes);
            let one = <(String, u32, Option<String>, bool, StreamPosition)>::decode(&mut input);
            one.ok().map(|one| (one, bytes.len() - input.rest().len()))
        };
        if let Some((decoded, length)) = decodes(&bytes) {
            prop_assert_eq!(encoded(&decoded), &bytes[..length]);
        }
        let bytes = bytes::Bytes::from(bytes);
        if let Ok(decoded) = Positioned::<Example>::decode(&bytes) {
            prop_assert!(bytes.len() > 8);
            prop_assert!(!decoded.record.name.contains('\0') || bytes.contains(&0));
        }
    }

    #[test]
    fn records_come_back(name: String, count: Option<u64>, position in 0..1_u64 << 60) {
        let position = StreamPosition::new(position);
        let record = Positioned { position, record: Example { name, count } };
        let mut out = KeyEncoder::default();
        record.encode(&mut out).unwrap();
        let mut bytes = out.as_bytes().to_vec();
        prop_assert_eq!(&Positioned::decode(&bytes.clone().into()).unwrap(), &record);
        bytes.push(0);
        prop_assert!(Positioned::<Example>::decode(&bytes.into()).is_err(), "trailing bytes");
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Example {
    name: String,
    count: Option<u64>,
}
postcard_record!(Example, version = 3);

#[test]
fn identifiers_come_back() {
    fn check<T: KeyPart + PartialEq + Debug>(identifier: &T) {
        let key = encoded(identifier);
        assert_eq!(T::decode(&mut KeyDecoder::new(&key)).unwrap(), *identifier);
    }
    check::<OwnedRoomId>(&"!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM".try_into().unwrap());
    check::<OwnedRoomId>(&"!opaque:hearth.test".try_into().unwrap());
    check::<OwnedUserId>(&"@alice:hearth.test".try_into().unwrap());
    check::<OwnedEventId>(&"$acR1l0raoZnm60CBwAVgqbZqoO_mYU81xysh1u7XcJk".try_into().unwrap());
    check::<OwnedRoomAliasId>(&"#room:hearth.test".try_into().unwrap());
    check::<OwnedServerName>(&"hearth.test:8448".try_into().unwrap());
    check::<OwnedDeviceId>(&"ABC\0DEF".into());
    check::<OwnedTransactionId>(&"m1234.5".into());
    let not_a_user = encoded(&"alice".to_owned());
    assert!(OwnedUserId::decode(&mut KeyDecoder::new(&not_a_user)).is_err());
}

#[test]
fn a_record_of_another_version_is_refused() {
    let mut out = KeyEncoder::default();
    Example { name: String::new(), count: None }.encode(&mut out).unwrap();
    let mut bytes = out.as_bytes().to_vec();
    bytes[0] = 4;
    let error = Example::decode(&bytes.into()).unwrap_err();
    assert!(error.to_string().contains("version 4"), "{error}");
    assert!(Example::decode(&bytes::Bytes::new()).is_err());
}
