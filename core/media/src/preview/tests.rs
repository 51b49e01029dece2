use std::{
    collections::HashMap,
    io,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use hearth_types::ManualClock;
use http::{HeaderMap, Request, Response, header};
use ruma::{UserId, owned_server_name, user_id};
use serde_json::json;

use super::*;
// Where something is stored, time is not simulated: it would pass while the store's own thread writes.
use crate::{ContentStream, ContentUri, MediaConfig, testing::media_in_memory};

const PAGE: &str = "https://page.example/";
const DAY: Duration = Duration::from_hours(24);

/// What is at a URL.
#[derive(Clone)]
struct Thing {
    status: u16,
    headers: Vec<(header::HeaderName, String)>,
    body: Vec<u8>,
    /// The body goes on like this for ever.
    endless: bool,
    /// Nothing comes.
    silent: bool,
}

impl Thing {
    fn of(kind: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![(header::CONTENT_TYPE, kind.to_owned())];
        Self { status: 200, headers, body: body.into(), endless: false, silent: false }
    }

    fn page(html: &str) -> Self {
        Self::of("text/html", html)
    }

    fn redirect(to: &str) -> Self {
        let headers = vec![(header::LOCATION, to.to_owned())];
        Self { status: 302, headers, ..Self::page("") }
    }
}

/// A web in memory, which counts.
#[derive(Default)]
struct Fake {
    things: Mutex<HashMap<String, Thing>>,
    asked: Mutex<Vec<(String, HeaderMap)>>,
    sent: AtomicUsize,
}

impl Fake {
    fn put(&self, url: &str, thing: Thing) {
        self.things.lock().insert(url.to_owned(), thing);
    }

    fn urls(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock()).into_iter().map(|(url, _)| url).collect()
    }
}

struct Wire(Arc<Fake>);

#[async_trait]
impl Web for Wire {
    async fn get(
        &self,
        request: Request<()>,
        _timeout: Duration,
    ) -> Result<Response<ContentStream>, WebError> {
        let url = request.uri().to_string();
        self.0.asked.lock().push((url.clone(), request.headers().clone()));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let thing = self.0.things.lock().get(&url).cloned();
        let thing = thing.ok_or_else(|| WebError("nobody is there".to_owned()))?;
        if thing.silent {
            return future::pending().await;
        }
        let mut response = Response::builder().status(thing.status);
        for (name, value) in &thing.headers {
            response = response.header(name, value);
        }
        let fake = Arc::clone(&self.0);
        let times = if thing.endless { usize::MAX } else { 1 };
        let body = stream::iter(std::iter::repeat_n(Bytes::from(thing.body), times));
        let body = body.map(move |chunk| {
            fake.sent.fetch_add(chunk.len(), Ordering::Relaxed);
            Ok::<_, io::Error>(chunk)
        });
        Ok(response.body(body.boxed()).unwrap())
    }
}

struct Bench {
    media: Media,
    web: Arc<Fake>,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        Self::with(PreviewConfig::default())
    }

    fn with(previews: PreviewConfig) -> Self {
        let (media, clock) = media_in_memory(MediaConfig { previews, ..MediaConfig::default() });
        let web = Arc::new(Fake::default());
        media.set_web(Arc::new(Wire(Arc::clone(&web))));
        Self { media, web, clock }
    }

    async fn ask(&self, request: PreviewRequest<'_>) -> Result<Value, MediaError> {
        Ok(Value::Object(Map::clone(&*self.media.preview(request).await?)))
    }

    async fn preview(&self, url: &str) -> Result<Value, MediaError> {
        self.ask(of(url)).await
    }
}

fn of(url: &str) -> PreviewRequest<'_> {
    PreviewRequest { user_id: user_id!("@ann:hearth.test"), url, at_ms: None, language: None }
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    image::RgbImage::new(width, height).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn with_picture(address: &str) -> Thing {
    Thing::page(&format!("<title>T</title><meta property=og:image content='{address}'>"))
}

#[tokio::test]
async fn a_page_with_its_picture() {
    let bench = Bench::new();
    bench.web.put(PAGE, with_picture("a/b.png"));
    let picture = png(30, 20);
    bench.web.put("https://page.example/a/b.png", Thing::of("image/png", picture.clone()));
    let preview = bench.preview(PAGE).await.unwrap();
    let uri = preview["og:image"].as_str().unwrap().to_owned();
    assert_eq!(
        preview,
        json!({
            "og:title": "T", "og:image": uri, "og:image:type": "image/png", "og:image:width": 30,
            "og:image:height": 20, "matrix:image:size": picture.len(),
        })
    );
    let id = uri.strip_prefix("mxc://hearth.test/").unwrap().to_owned();
    let uri = ContentUri::new(owned_server_name!("hearth.test"), id).unwrap();
    let read = async || {
        let content = bench.media.local_content(&uri, Duration::ZERO).await?;
        assert_eq!((content.content_type.as_str(), content.inline), ("image/png", true));
        Ok::<_, MediaError>(content.body.try_collect::<Vec<Bytes>>().await.unwrap().concat())
    };
    assert_eq!(read().await.unwrap(), picture);
    // Nobody's quota has it, and it stays as long as it is asked for.
    let usage = bench.media.usage(user_id!("@ann:hearth.test")).await.unwrap();
    assert_eq!((usage.items, usage.bytes), (0, 0));
    for _ in 0..3 {
        bench.clock.advance(DAY * 80);
        bench.media.make_room(None).await.unwrap();
        assert_eq!(read().await.unwrap(), picture);
    }
    bench.clock.advance(DAY * 91);
    bench.media.make_room(None).await.unwrap();
    assert!(matches!(read().await, Err(MediaError::NotFound)));
}

#[tokio::test]
async fn a_page_without_a_picture_of_its_own_has_the_first_that_it_shows() {
    let bench = Bench::new();
    let page = "<title>T</title><meta property=og:image:alt content='a rock'><img src='/one.png'>\
        <img src='two.png'><img src='three.png'>";
    bench.web.put("https://page.example/a/", Thing::page(page));
    // Nothing said how small it is.
    bench.web.put("https://page.example/one.png", Thing::of("image/png", png(1, 1)));
    bench.web.put("https://page.example/a/two.png", Thing::of("image/png", png(40, 32)));
    let preview = bench.preview("https://page.example/a/").await.unwrap();
    assert_eq!((&preview["og:image:width"], &preview["og:image:height"]), (&json!(40), &json!(32)));
    assert!(preview.get("og:image:alt").is_none(), "{preview}");
    let asked = ["a/", "one.png", "a/two.png"].map(|path| format!("https://page.example/{path}"));
    assert_eq!(bench.web.urls(), asked);

    // Its own is wanted first, however small.
    bench.web.put(
        "https://page.example/b",
        Thing::page(&format!("{page}<link rel=image_src href=one.png>")),
    );
    let preview = bench.preview("https://page.example/b").await.unwrap();
    assert_eq!(
        (&preview["og:image:width"], &preview["og:image:alt"]),
        (&json!(1), &json!("a rock"))
    );
    bench.web.urls();

    // It is asked for only where users may ask, and no more are than so many.
    let page = "<title>T</title><img src='https://page.example:22/a.png'><img src='/gone.png'><img src='/one.png'>";
    bench.web.put("https://page.example/c", Thing::page(page));
    assert_eq!(bench.preview("https://page.example/c").await.unwrap(), json!({ "og:title": "T" }));
    assert_eq!(bench.web.urls(), ["https://page.example/c", "https://page.example/gone.png"]);
}

#[tokio::test]
async fn a_link_to_a_picture_and_to_something_else() {
    let bench = Bench::new();
    let url = "https://page.example/x";
    bench.web.put(url, Thing::of("image/jpeg", png(7, 8)));
    let preview = bench.preview(url).await.unwrap();
    assert_eq!(preview["og:image:type"], "image/png", "what it is, not what it is said to be");
    assert_eq!((&preview["og:image:width"], &preview["og:image:height"]), (&json!(7), &json!(8)));
    for (kind, body) in [
        (
            "image/svg+xml",
            "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        ),
        ("image/png", "<html><script>alert(1)</script></html>"),
        ("image/png", ""),
        ("application/pdf", "%PDF-1.4"),
        ("text/plain", "<title>T</title>"),
    ] {
        let url = format!("https://page.example/{}", kind.len() + body.len());
        bench.web.put(&url, Thing::of(kind, body));
        assert_eq!(bench.preview(&url).await.unwrap(), json!({}), "{kind} {body}");
    }
}

#[tokio::test]
async fn a_picture_that_cannot_be_had_is_left_away() {
    let config = PreviewConfig { max_image_bytes: 2_000, timeout_s: 1, ..PreviewConfig::default() };
    let bench = Bench::with(config);
    let large = [png(1, 1), vec![0; 2_000]].concat();
    let bomb = png(1, 1).into_iter().enumerate().map(|(at, byte)| {
        // The width and height in its header.
        if (16..24).contains(&at) { 0x7f } else { byte }
    });
    bench.web.put("https://a.example/large", Thing::of("image/png", large));
    bench.web.put("https://a.example/svg", Thing::of("image/png", "<svg>".repeat(100)));
    bench
        .web
        .put("https://a.example/gone", Thing { status: 404, ..Thing::of("image/png", png(1, 1)) });
    bench.web.put("https://a.example/silent", Thing { silent: true, ..Thing::page("") });
    bench.web.put("https://a.example/away", Thing::redirect("http://a.example:8080/"));
    bench.web.put("https://a.example/bomb", Thing::of("image/png", bomb.collect::<Vec<u8>>()));
    let addresses = [
        "https://a.example/large",
        "https://a.example/svg",
        "https://a.example/gone",
        "https://a.example/silent",
        "https://a.example/away",
        "https://a.example:22/",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "//user@a.example/",
        "",
    ];
    for address in addresses {
        bench.web.put(PAGE, with_picture(address));
        bench.clock.advance(DAY * 2);
        assert_eq!(bench.preview(PAGE).await.unwrap(), json!({ "og:title": "T" }), "{address}");
    }
    bench.clock.advance(DAY * 2);
    bench.web.put(PAGE, with_picture("https://a.example/bomb"));
    let preview = bench.preview(PAGE).await.unwrap();
    assert_eq!(preview.get("og:image:width"), None, "a size that cannot be is not told");
}

#[tokio::test(start_paused = true)]
async fn redirects_are_followed_where_users_may_ask_and_not_for_ever() {
    let bench = Bench::new();
    for hop in 0..=6 {
        let to = format!("/{}", hop + 1);
        bench.web.put(&format!("https://page.example/{hop}"), Thing::redirect(&to));
    }
    bench.web.put("https://page.example/6", Thing::page("<title>six</title>"));
    assert!(matches!(bench.preview("https://page.example/0").await, Err(MediaError::NoPreview)));
    assert_eq!(bench.web.urls().len(), 6);
    assert_eq!(bench.preview("https://page.example/1").await.unwrap()["og:title"], "six");
    bench.web.urls();
    for to in [
        "http://page.example:8008/",
        "ftp://page.example/",
        "file:///etc/passwd",
        "https://a:b@page.example/",
        "https://page.example./",
        "",
    ] {
        let url = format!("https://page.example/from{}", to.len());
        bench.web.put(&url, Thing::redirect(to));
        assert!(matches!(bench.preview(&url).await, Err(MediaError::NoPreview)), "{to}");
        assert!(
            bench.web.urls().iter().all(|asked| asked.starts_with("https://page.example/from"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_asked_for_is_not() {
    let bench = Bench::new();
    for url in ["ftp://page.example/", "https://a@page.example/", "https://page.example:22/", ""] {
        let refused = bench.preview(url).await;
        assert!(matches!(refused, Err(MediaError::PreviewRefused(_))), "{url}");
    }
    let off = Bench::with(PreviewConfig { enabled: false, ..PreviewConfig::default() });
    assert!(matches!(off.preview(PAGE).await, Err(MediaError::PreviewsOff)));
    assert!(bench.web.urls().is_empty() && off.web.urls().is_empty());
}

#[tokio::test]
async fn no_more_is_read_than_may_be() {
    let config = PreviewConfig { max_page_bytes: 10_000, ..PreviewConfig::default() };
    let bench = Bench::with(config);
    let page = Thing::page(&format!("<title>T</title>{}", "<p>endless".repeat(100)));
    bench.web.put(PAGE, Thing { endless: true, ..page });
    assert_eq!(bench.preview(PAGE).await.unwrap()["og:title"], "T");
    assert!(bench.web.sent.load(Ordering::Relaxed) < 12_000);
    let picture = Thing::of("image/png", png(300, 300));
    bench.web.put("https://page.example/p", Thing { endless: true, ..picture });
    assert!(bench.preview("https://page.example/p").await.is_err());
    // What is packed is not unpacked.
    let mut packed = Thing::page("\x1f\x08");
    packed.headers.push((header::CONTENT_ENCODING, "gzip".to_owned()));
    bench.web.put("https://page.example/gzip", packed);
    assert!(matches!(bench.preview("https://page.example/gzip").await, Err(MediaError::NoPreview)));
    let (_, asked) = bench.web.asked.lock().pop().unwrap();
    assert_eq!(asked[header::ACCEPT_ENCODING], "identity");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_does_not_come_takes_so_long_and_no_longer() {
    let bench = Bench::new();
    bench.web.put(PAGE, Thing { silent: true, ..Thing::page("") });
    let begun = tokio::time::Instant::now();
    assert!(matches!(bench.preview(PAGE).await, Err(MediaError::NoPreview)));
    assert_eq!(begun.elapsed().as_secs(), 10);
    // It is not tried again at once, but after a while.
    assert!(matches!(bench.preview(PAGE).await, Err(MediaError::NoPreview)));
    assert_eq!(bench.web.urls().len(), 1);
    bench.clock.advance(Duration::from_mins(1));
    bench.web.put(PAGE, Thing::page("<title>T</title>"));
    assert_eq!(bench.preview(PAGE).await.unwrap()["og:title"], "T");
}

#[tokio::test(start_paused = true)]
async fn a_page_is_read_once_for_all_who_ask() {
    let bench = Bench::new();
    bench.web.put(PAGE, Thing::page("<title>T</title>"));
    let all = future::join_all((0..20).map(|_| bench.preview(PAGE))).await;
    assert!(all.iter().all(|preview| preview.as_ref().unwrap()["og:title"] == "T"));
    assert_eq!(bench.preview("https://PAGE.example:443/#part").await.unwrap()["og:title"], "T");
    assert_eq!(bench.web.urls(), [PAGE]);
    bench.web.put(PAGE, Thing::page("<title>U</title>"));
    bench.clock.advance(Duration::from_secs(3_599));
    assert_eq!(bench.preview(PAGE).await.unwrap()["og:title"], "T");
    bench.clock.advance(Duration::from_secs(1));
    // Who asks for the past gets what was read next to it.
    let past = PreviewRequest { at_ms: Some(1_000), ..of(PAGE) };
    assert_eq!(bench.ask(past).await.unwrap()["og:title"], "T");
    let future = PreviewRequest { at_ms: Some(u64::MAX), ..of(PAGE) };
    assert_eq!(bench.ask(future).await.unwrap()["og:title"], "U");
    let french = PreviewRequest { language: Some("fr, en;q=0.5"), ..of(PAGE) };
    bench.web.urls();
    bench.ask(french).await.unwrap();
    let (_, asked) = bench.web.asked.lock().pop().unwrap();
    assert_eq!(asked[header::ACCEPT_LANGUAGE], "fr, en;q=0.5");
}

#[tokio::test(start_paused = true)]
async fn slow_pages_of_some_do_not_keep_others_waiting() {
    let bench = Bench::new();
    let users = ["@ann:hearth.test", "@eve:hearth.test"].map(|id| UserId::parse(id).unwrap());
    let url = |user: usize, number: usize| format!("https://page{user}.example/{number}");
    let (wanted, mut slow) = (READING.wanted.of_user, Vec::new());
    for (user, user_id) in users.iter().enumerate() {
        for number in 0..=wanted {
            let url = url(user, number);
            bench.web.put(&url, Thing { silent: true, ..Thing::page("") });
            let media = &bench.media;
            slow.push(async move {
                // The last one comes when the others wait already.
                tokio::time::sleep(Duration::from_millis(u64::from(number == wanted))).await;
                let began = tokio::time::Instant::now();
                let outcome = media.preview(PreviewRequest { user_id, ..of(&url) }).await;
                (number, began.elapsed(), outcome)
            });
        }
    }
    bench.web.put(PAGE, Thing::page("<title>T</title>"));
    let others = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = tokio::time::Instant::now();
        let bob = PreviewRequest { user_id: user_id!("@bob:hearth.test"), ..of(PAGE) };
        assert_eq!(bench.ask(bob).await.unwrap()["og:title"], "T");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    };
    let (slow, ()) = tokio::join!(future::join_all(slow), others);
    let longest =
        READING.patience + bench.media.config().previews.timeout() + Duration::from_secs(1);
    for (number, took, outcome) in slow {
        let refused = matches!(outcome, Err(MediaError::Busy(_)));
        assert!(refused || matches!(outcome, Err(MediaError::NoPreview)), "{number}");
        assert!(took <= longest, "{number}: {took:?}");
        assert_eq!(took.is_zero(), number == wanted, "{number}: {took:?}");
    }
    assert!(bench.media.inner().previews.wanted.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_user_whose_share_is_used_up_does_not_keep_a_page_from_others() {
    let bench = Bench::new();
    let slow: Vec<String> = (0..READING.running.of_user)
        .map(|number| format!("https://slow{number}.example/"))
        .collect();
    for url in &slow {
        bench.web.put(url, Thing { silent: true, ..Thing::page("") });
    }
    bench.web.put(PAGE, Thing::page("<title>T</title>"));
    let waits = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.preview(PAGE).await.unwrap()
    };
    let joins = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!bench.web.urls().contains(&PAGE.to_owned()), "her share is used up");
        let began = tokio::time::Instant::now();
        let bob = PreviewRequest { user_id: user_id!("@bob:hearth.test"), ..of(PAGE) };
        assert_eq!(bench.ask(bob).await.unwrap()["og:title"], "T");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    };
    let slow = future::join_all(slow.iter().map(|url| bench.preview(url)));
    tokio::join!(slow, waits, joins);
}
