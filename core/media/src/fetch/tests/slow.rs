//! Servers that take their time, under simulated time.

use std::path::Path;

use hearth_storage::{EngineKind, Store, StoreOptions, engine::memory::MemoryEngine};
use ruma::{OwnedServerName, OwnedUserId, UInt};
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};

use super::*;
use crate::{Blobs, KEYSPACES, Thumbnail, testing};

/// A picture of one pixel.
const GIF: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
/// How long an answer is on its way.
const LATENCY: Duration = Duration::from_millis(100);
/// When content is uploaded to the server that has it late, after the start.
const UPLOADED_AFTER: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// Servers that do what their names say.
struct Far {
    began: Instant,
    /// How long each request was to wait for an upload.
    waits: Mutex<Vec<Duration>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Far {
    /// One more is fetched from a server that never gives what it should.
    fn enter(self: &Arc<Self>) -> Stuck {
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        Stuck(Arc::clone(self))
    }
}

struct Stuck(Arc<Far>);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Wire(Arc<Far>);

#[async_trait]
impl RemoteMedia for Wire {
    async fn fetch(
        &self,
        uri: &ContentUri,
        _max_bytes: u64,
        wait: Duration,
        _timeout: Duration,
    ) -> Result<RemoteContent, RemoteMediaError> {
        self.0.waits.lock().push(wait);
        sleep(LATENCY).await;
        let gif = stream::iter([Ok(Bytes::from_static(GIF))]).boxed();
        let body: ContentStream = match uri.server_name().as_str() {
            "silent.test" | "a.silent.test" => {
                let _stuck = self.0.enter();
                std::future::pending().await
            }
            "dripping.test" => stream::unfold(self.0.enter(), async |stuck| {
                sleep(SECOND).await;
                Some((Ok(Bytes::from_static(b"x")), stuck))
            })
            .boxed(),
            "steady.test" => stream::unfold(3, async |left: u32| {
                sleep(PACE_PERIOD.saturating_sub(SECOND)).await;
                let left = left.checked_sub(1)?;
                Some((Ok(Bytes::from(vec![0; PACE_BYTES])), left))
            })
            .boxed(),
            "late.test" => {
                let uploaded_at = self.0.began + UPLOADED_AFTER;
                if Instant::now() + wait < uploaded_at {
                    sleep(wait).await;
                    return Err(RemoteMediaError::NotYetUploaded);
                }
                sleep_until(uploaded_at).await;
                gif
            }
            _ => gif,
        };
        Ok(RemoteContent { about: About::default(), announced_bytes: None, body })
    }
}

struct Bench {
    media: Media,
    far: Arc<Far>,
}

fn user(number: usize) -> OwnedUserId {
    UserId::parse(format!("@user{number}:hearth.test")).unwrap()
}

fn item(server: &str, id: &str) -> ContentUri {
    ContentUri::new(OwnedServerName::try_from(server).unwrap(), id.to_owned()).unwrap()
}

fn thumbnail() -> Thumbnail {
    Thumbnail::new(UInt::from(32_u32), UInt::from(32_u32), None, None).unwrap()
}

impl Bench {
    fn new() -> Self {
        let options = StoreOptions::for_tests(EngineKind::Memory, Path::new(""), KEYSPACES);
        let engine = Arc::new(MemoryEngine::new(options.all_keyspaces().len()));
        // A thread of the store's own would write while time flies.
        let store = Store::open_in_task(engine, &options, Duration::from_millis(1)).unwrap();
        let (media, _) = testing::media(store, Blobs::in_memory(), MediaConfig::default());
        let far = Arc::new(Far {
            began: Instant::now(),
            waits: Mutex::default(),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        });
        media.set_remote(Arc::new(Wire(Arc::clone(&far))));
        Self { media, far }
    }

    /// Reads an item after a delay; how it went, and when after the start.
    async fn read(
        &self,
        after: Duration,
        uri: &ContentUri,
        wait: Duration,
    ) -> (Result<Vec<u8>, MediaError>, Duration) {
        sleep(after).await;
        let read = async {
            let content = self.media.content(&user(0), uri, wait).await?;
            Ok(content.body.try_collect::<Vec<Bytes>>().await.unwrap().concat())
        };
        (read.await, self.far.began.elapsed())
    }

    async fn upload(&self, body: &'static [u8]) -> ContentUri {
        let mut upload = self.media.upload(&user(9), None, About::default(), None).await.unwrap();
        upload.write(Bytes::from_static(body)).await.unwrap();
        upload.finish().await.unwrap()
    }

    fn waits(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.far.waits.lock())
    }
}

fn is_late(outcome: &Result<Vec<u8>, MediaError>) -> bool {
    matches!(outcome, Err(MediaError::NotYetUploaded))
}

/// About then: a message more or less does not count.
fn assert_about(at: Duration, expected: Duration) {
    assert!(at.abs_diff(expected) < SECOND / 2, "at {at:?}, not at {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_slow_is_slow_for_nobody_else() {
    const USERS: usize = 3;
    for server in ["silent.test", "dripping.test"] {
        let bench = Bench::new();
        let local = bench.upload(GIF).await;
        let mut slow = JoinSet::new();
        for number in 0..crate::thumbnail::MAX_WANTING + USERS {
            let (media, uri) = (bench.media.clone(), item(server, &number.to_string()));
            slow.spawn(async move {
                let (began, user_id) = (Instant::now(), user(number % USERS));
                let made = media.thumbnail(&user_id, &uri, thumbnail(), Duration::ZERO).await;
                (made.map(|_| ()), began.elapsed())
            });
        }
        sleep(SECOND).await;
        let began = Instant::now();
        // Users who look at the slow server, and one who does not.
        for number in 0..=USERS {
            let uri = item("quick.test", &number.to_string());
            bench.media.content(&user(number), &uri, Duration::ZERO).await.unwrap();
            let user_id = user(number);
            let thumbnail = bench.media.thumbnail(&user_id, &local, thumbnail(), SECOND);
            thumbnail.await.unwrap();
        }
        assert!(began.elapsed() < SECOND, "{server}: {:?}", began.elapsed());
        let longest = FETCHES.patience + MAX_BEGINNING + SECOND;
        while let Some(ended) = slow.join_next().await {
            let (made, took) = ended.unwrap();
            assert!(matches!(made, Err(MediaError::Remote(_) | MediaError::Busy(_))), "{made:?}");
            assert!(took < longest, "{server}: {took:?}");
        }
        let most = bench.far.most_at_once.load(Ordering::Relaxed);
        assert_eq!(most, FETCHES.running.of_server, "{server}");
        assert!(bench.media.inner().fetches.under_way.lock().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn content_must_come_on() {
    let bench = Bench::new();
    let (dripping, at) = bench.read(Duration::ZERO, &item("dripping.test", "a"), SECOND).await;
    assert!(matches!(dripping, Err(MediaError::Remote(_))), "{dripping:?}");
    assert_about(at, LATENCY + PACE_PERIOD);
    let steady = bench.read(Duration::ZERO, &item("steady.test", "a"), SECOND).await.0.unwrap();
    assert_eq!(steady.len(), 3 * PACE_BYTES);
}

#[tokio::test(start_paused = true)]
async fn servers_wait_for_uploads_as_long_as_the_client_does() {
    let (bench, uri) = (Bench::new(), item("late.test", "a"));
    let (at_once, at) = bench.read(Duration::ZERO, &uri, Duration::ZERO).await;
    assert!(is_late(&at_once), "{at_once:?}");
    assert_about(at, Duration::ZERO);
    let (soon, at) = bench.read(Duration::ZERO, &uri, SECOND * 3).await;
    assert!(is_late(&soon), "{soon:?}");
    assert_about(at, SECOND * 3);
    let (whole, at) = bench.read(Duration::ZERO, &uri, SECOND * 20).await;
    assert_eq!(whole.unwrap(), GIF);
    assert_about(at, UPLOADED_AFTER);
    assert_eq!(bench.waits(), [Duration::ZERO, SECOND * 3, SECOND * 20]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_less_than_others_leaves_earlier() {
    let (bench, uri) = (Bench::new(), item("late.test", "a"));
    let (long, none, short) = tokio::join!(
        bench.read(Duration::ZERO, &uri, SECOND * 20),
        bench.read(SECOND, &uri, Duration::ZERO),
        bench.read(SECOND * 6, &uri, SECOND * 2),
    );
    assert_eq!(long.0.unwrap(), GIF);
    assert!(is_late(&none.0) && is_late(&short.0));
    // The first cannot tell at once whether the answer is only on its way.
    assert_about(none.1, MAX_ANSWER_DELAY);
    assert_about(short.1, SECOND * 8);
    assert_eq!(bench.waits(), [SECOND * 20]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_longer_than_others_stays() {
    let (bench, uri) = (Bench::new(), item("late.test", "a"));
    let (short, long) = tokio::join!(
        bench.read(Duration::ZERO, &uri, SECOND),
        bench.read(SECOND / 2, &uri, SECOND * 20),
    );
    assert!(is_late(&short.0));
    assert_about(short.1, SECOND);
    assert_eq!(long.0.unwrap(), GIF);
    assert_about(long.1, UPLOADED_AFTER);
    let waits = bench.waits();
    assert_eq!((waits.len(), waits[0]), (2, SECOND));
    assert_about(waits[1], SECOND * 39 / 2);
}

#[tokio::test(start_paused = true)]
async fn what_comes_slowly_is_uploaded() {
    let (bench, uri) = (Bench::new(), item("steady.test", "a"));
    let (long, none) = tokio::join!(
        bench.read(Duration::ZERO, &uri, SECOND * 20),
        bench.read(SECOND, &uri, Duration::ZERO),
    );
    assert_eq!(long.0.unwrap().len(), 3 * PACE_BYTES);
    assert_eq!(none.0.unwrap().len(), 3 * PACE_BYTES);
    assert_eq!(bench.waits().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_user_whose_share_is_used_up_does_not_keep_an_item_from_others() {
    let (bench, uri) = (Bench::new(), item("quick.test", "a"));
    let mut slow = JoinSet::new();
    let mut ask = |uri: ContentUri| {
        let media = bench.media.clone();
        slow.spawn(async move { media.content(&user(0), &uri, SECOND * 20).await.map(|_| ()) });
    };
    // As much as one user may want, of servers that are silent; the last one is quick, and waits behind them.
    for number in 1..FETCHES.wanted.of_user {
        ask(item(["silent.test", "a.silent.test"][number % 2], &number.to_string()));
    }
    ask(uri.clone());
    sleep(SECOND).await;
    assert_eq!(bench.waits().len(), FETCHES.running.of_user);
    bench.media.content(&user(1), &uri, Duration::ZERO).await.unwrap();
    assert!(bench.far.began.elapsed() < SECOND * 2, "it has its turn in the share of who joins");
    while let Some(ended) = slow.join_next().await {
        drop(ended.unwrap());
    }
}
