mod slow;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures_util::{TryStreamExt as _, stream};
use hearth_types::ManualClock;
use ruma::{owned_server_name, user_id};

use super::*;
use crate::{About, MediaConfig, RemoteMedia, testing::media_in_memory};

/// Gives content of so many bytes under every URI, and counts how often it is asked.
struct Far {
    bytes: u64,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl RemoteMedia for Far {
    async fn fetch(
        &self,
        uri: &ContentUri,
        _max_bytes: u64,
        _wait: Duration,
        _timeout: Duration,
    ) -> Result<RemoteContent, RemoteMediaError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let body = uri.media_id().repeat(usize::try_from(self.bytes).unwrap());
        let body = stream::iter([Ok(Bytes::from(body))]).boxed();
        Ok(RemoteContent { about: About::default(), announced_bytes: Some(self.bytes), body })
    }
}

struct Bench {
    media: Media,
    clock: Arc<ManualClock>,
    asked: Arc<AtomicUsize>,
}

impl Bench {
    fn new(bytes: u64, config: MediaConfig) -> Self {
        let (media, clock) = media_in_memory(config);
        let asked = Arc::new(AtomicUsize::new(0));
        media.set_remote(Arc::new(Far { bytes, asked: Arc::clone(&asked) }));
        Self { media, clock, asked }
    }

    async fn read(&self, media_id: &str) -> Result<Vec<u8>, MediaError> {
        let uri = ContentUri::new(owned_server_name!("far.test"), media_id.to_owned()).unwrap();
        let content =
            self.media.content(user_id!("@ann:hearth.test"), &uri, Duration::ZERO).await?;
        Ok(content.body.try_collect::<Vec<Bytes>>().await.unwrap().concat())
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn many_who_ask_at_once_are_served_by_one_fetch() {
    let bench = Bench::new(3, MediaConfig::default());
    let all = tokio::join!(bench.read("a"), bench.read("a"), bench.read("b"), bench.read("a"));
    assert_eq!(all.0.unwrap(), b"aaa");
    assert_eq!(all.1.unwrap(), b"aaa");
    assert_eq!(all.2.unwrap(), b"bbb");
    assert_eq!(all.3.unwrap(), b"aaa");
    assert_eq!(bench.asked(), 2);
    assert_eq!(bench.read("a").await.unwrap(), b"aaa");
    assert_eq!(bench.asked(), 2, "kept");
}

#[tokio::test]
async fn a_caller_who_goes_away_does_not_end_the_fetch() {
    let bench = Bench::new(1, MediaConfig::default());
    let gone = timeout(Duration::from_millis(10), bench.read("a")).await;
    assert!(gone.is_err());
    assert_eq!(bench.read("a").await.unwrap(), b"a");
    assert_eq!(bench.asked(), 1);
}

#[tokio::test]
async fn what_differs_from_what_was_announced_is_not_kept() {
    let bench = Bench::new(2, MediaConfig::default());
    // Twice as long as it says.
    assert!(matches!(bench.read("ab").await, Err(MediaError::Remote(_))));
    assert!(matches!(bench.read("ab").await, Err(MediaError::Remote(_))));
    assert_eq!(bench.asked(), 2);
    let small = Bench::new(3, MediaConfig { max_remote_bytes: 2, ..Default::default() });
    assert!(matches!(small.read("a").await, Err(MediaError::RemoteTooLarge)));
}

#[tokio::test]
async fn what_is_not_asked_for_is_dropped_after_days() {
    let bench = Bench::new(1, MediaConfig { cache_days: 3, ..Default::default() });
    bench.read("a").await.unwrap();
    bench.read("b").await.unwrap();
    bench.clock.advance(DAY * 2);
    bench.read("a").await.unwrap();
    bench.clock.advance(DAY * 2);
    bench.media.make_room(None).await.unwrap();
    assert_eq!(bench.asked(), 2);
    bench.read("a").await.unwrap();
    assert_eq!(bench.asked(), 2, "it was asked for in between");
    bench.read("b").await.unwrap();
    assert_eq!(bench.asked(), 3);
}

#[tokio::test]
async fn what_was_asked_for_last_stays_when_there_is_too_much() {
    let bench = Bench::new(10, MediaConfig { cache_bytes: 25, ..Default::default() });
    bench.read("a").await.unwrap();
    bench.clock.advance(DAY);
    bench.read("b").await.unwrap();
    bench.clock.advance(DAY);
    bench.read("a").await.unwrap();
    bench.read("c").await.unwrap();
    assert_eq!(bench.asked(), 3);
    bench.read("a").await.unwrap();
    bench.read("c").await.unwrap();
    assert_eq!(bench.asked(), 3);
    bench.read("b").await.unwrap();
    assert_eq!(bench.asked(), 4);
    let tiny = Bench::new(10, MediaConfig { cache_bytes: 5, ..Default::default() });
    assert!(matches!(tiny.read("a").await, Err(MediaError::RemoteTooLarge)));
}

#[tokio::test]
async fn without_a_way_to_other_servers_there_is_nothing() {
    let bench = Bench::new(1, MediaConfig::default());
    bench.media.unset_remote();
    assert!(matches!(bench.read("a").await, Err(MediaError::NotFound)));
}
