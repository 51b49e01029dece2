use std::sync::Arc;

use bytes::Bytes;
use hearth_types::ManualClock;
use ruma::{UInt, owned_server_name, user_id};

use super::*;
use crate::{MediaConfig, Thumbnail, testing::media_in_memory};

/// A picture of one pixel.
const GIF: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
const DAY: Duration = Duration::from_hours(24);

struct Bench {
    media: Media,
    clock: Arc<ManualClock>,
}

impl Bench {
    /// With copies that are kept for three days, and no way to fetch them again.
    fn new() -> Self {
        let (media, clock) = media_in_memory(MediaConfig { cache_days: 3, ..Default::default() });
        Self { media, clock }
    }

    /// As if it had been fetched.
    async fn copy(&self, media_id: &str) -> ContentUri {
        let uri = ContentUri::new(owned_server_name!("far.test"), media_id.to_owned()).unwrap();
        let mut staged = self.media.blobs().stage().await.unwrap();
        staged.write(Bytes::from_static(GIF)).await.unwrap();
        let whole = staged.finish().await.unwrap();
        let content = ContentRow {
            hash: whole.hash,
            bytes: whole.bytes,
            content_type: "image/gif".to_owned(),
            file_name: None,
            inline: true,
            stored_ms: 0,
        };
        self.media.cache(&uri, whole, content).await.unwrap();
        uri
    }

    async fn thumbnail(&self, uri: &ContentUri, side: u32) -> Result<(), MediaError> {
        let side = UInt::from(side);
        let wanted = Thumbnail::new(side, side, None, None).unwrap();
        let user_id = user_id!("@ann:hearth.test");
        self.media.thumbnail(user_id, uri, wanted, Duration::ZERO).await.map(drop)
    }

    async fn days_pass(&self, days: u32) {
        self.clock.advance(DAY * days);
        self.media.make_room(None).await.unwrap();
    }

    async fn kept(&self) -> usize {
        let rows = self.media.store().page(&CACHED, &(), .., Direction::Forward, 100).await;
        rows.unwrap().len()
    }
}

#[tokio::test]
async fn thumbnails_go_with_their_original() {
    let bench = Bench::new();
    let uri = bench.copy("a").await;
    let other = bench.copy("b").await;
    for side in [32, 96] {
        bench.thumbnail(&uri, side).await.unwrap();
    }
    bench.days_pass(2).await;
    bench.thumbnail(&other, 32).await.unwrap();
    assert_eq!(bench.kept().await, 5);
    bench.days_pass(2).await;
    assert_eq!(bench.kept().await, 2, "the other picture, and its thumbnail");
    assert!(bench.thumbnail(&uri, 32).await.is_err());
    bench.days_pass(4).await;
    assert_eq!((bench.kept().await, bench.media.cached_bytes()), (0, 0));
}

#[tokio::test]
async fn whoever_sees_a_thumbnail_keeps_its_original_where_it_can_be_hidden() {
    let bench = Bench::new();
    let uri = bench.copy("a").await;
    bench.thumbnail(&uri, 32).await.unwrap();
    for _ in 0..3 {
        bench.days_pass(2).await;
        bench.thumbnail(&uri, 32).await.expect("it is in use");
    }
    bench.media.quarantine(&uri).await.expect("there is something to hide");
    assert!(matches!(bench.thumbnail(&uri, 32).await, Err(MediaError::NotFound)));
}

#[tokio::test]
async fn what_was_removed_leaves_no_thumbnail() {
    let bench = Bench::new();
    let uri = bench.copy("a").await;
    bench.thumbnail(&uri, 32).await.unwrap();
    bench.media.remove(&uri).await.unwrap();
    assert_eq!((bench.kept().await, bench.media.cached_bytes()), (0, 0));
}
