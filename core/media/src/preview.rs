//! Previews of pages that users link to (CS "GET /_matrix/client/v1/media/preview_url").
//!
//! A user names a URL, and this server reads what is behind it. So what may be asked for is judged twice: the URL by
//! its text ([`target`]), at every redirect again; and the address that its name leads to, by whoever makes the
//! connection ([`Web`]). What comes back was made by strangers: its size, the time that it may take, and the work that
//! it may cause are bounded.
//!
//! Answers are kept in memory. The picture of a preview is kept as content of other servers is: it is nobody's, and
//! goes when it was not asked for.

mod charset;
mod config;
mod fetch;
mod page;
mod target;
mod web;

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, RwLock};
use quick_cache::{Weighter, sync::Cache};
use ruma::UserId;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};

use self::target::Target;
pub use self::{
    config::PreviewConfig,
    web::{Web, WebError},
};
use crate::{
    Media, MediaError,
    places::{Bounds, Place, Places},
};

/// Pages that are read at once. Further ones wait.
const MAX_READING: usize = 16;
/// Pages that are read, or wait for it. A user has few of them, so that slow pages of one are not everybody's.
const WANTED: Bounds = Bounds {
    all: 256,
    all_taken: "Too many previews are being made",
    own: 8,
    own_taken: "Too many of your previews are being made",
};
/// Bytes of answers that are kept.
const KEPT_BYTES: u64 = 16 << 20;
/// What a kept answer takes beside its texts.
const KEPT_OVERHEAD_BYTES: u64 = 256;
/// About how many answers that are.
const KEPT_ANSWERS: usize = 8_192;
/// How long it is remembered that a page cannot be fetched: who scrolls asks again and again.
const FAILURE_LIFETIME_MS: u64 = 60 * 1_000;
/// How long an answer is kept for those who ask for the past.
const MAX_AGE_MS: u64 = 24 * 60 * 60 * 1_000;
/// The longest wish for languages that is passed on.
const MAX_LANGUAGE_BYTES: usize = 128;

/// What is known of a page: OpenGraph's properties, as the specification changes them.
pub type Preview = Arc<Map<String, Value>>;

/// What a user asks for.
#[derive(Clone, Copy, Debug)]
pub struct PreviewRequest<'a> {
    /// Who asks.
    pub user_id: &'a UserId,
    /// The URL, as it is written.
    pub url: &'a str,
    /// The time that the preview should be of, in milliseconds since 1970, if not now.
    pub at_ms: Option<u64>,
    /// The languages that the user reads, as in `Accept-Language`.
    pub language: Option<&'a str>,
}

/// What one answer is for: pages say other things in other languages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Wish {
    url: String,
    language: Option<String>,
}

/// What became of a page; `None` while it is read.
type Outcome = Option<Option<Preview>>;

#[derive(Clone, Debug)]
struct Kept {
    made_ms: u64,
    /// `None`: the page could not be fetched.
    preview: Option<Preview>,
}

#[derive(Clone, Debug)]
struct TextBytes;

impl Weighter<Wish, Kept> for TextBytes {
    fn weight(&self, wish: &Wish, kept: &Kept) -> u64 {
        let texts = kept.preview.iter().flat_map(|preview| preview.iter());
        let texts = texts.map(|(name, value)| name.len() + value.as_str().map_or(8, str::len));
        let language = wish.language.as_ref().map_or(0, String::len);
        let bytes: usize = texts.chain([wish.url.len(), language]).sum();
        KEPT_OVERHEAD_BYTES.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

/// What previews need.
pub(crate) struct Previews {
    /// How the web is reached, if it is.
    web: RwLock<Option<Arc<dyn Web>>>,
    kept: Cache<Wish, Kept, TextBytes>,
    wanted: Mutex<HashMap<Wish, watch::Receiver<Outcome>>>,
    places: Places,
    reading: Arc<Semaphore>,
}

impl Previews {
    pub(crate) fn new() -> Self {
        Self {
            web: RwLock::new(None),
            kept: Cache::with_weighter(KEPT_ANSWERS, KEPT_BYTES, TextBytes),
            wanted: Mutex::default(),
            places: Places::new(WANTED),
            reading: Arc::new(Semaphore::new(MAX_READING)),
        }
    }
}

impl Media {
    /// Plugs in the way to the web.
    pub fn set_web(&self, web: Arc<dyn Web>) {
        *self.inner().previews.web.write() = Some(web);
    }

    /// A preview of a page, read now or lately. However many ask for the same at once, it is read once.
    pub async fn preview(&self, request: PreviewRequest<'_>) -> Result<Preview, MediaError> {
        let previews = &self.inner().previews;
        let config = &self.config().previews;
        let web = previews.web.read().clone().filter(|_| config.enabled);
        let web = web.ok_or(MediaError::PreviewsOff)?;
        let target = Target::parse(request.url, config).map_err(MediaError::PreviewRefused)?;
        let language = request.language.and_then(accepted);
        let wish = Wish { url: target.url().to_string(), language };
        let preview = match self.kept_preview(&wish, request.at_ms) {
            Some(kept) => kept.preview,
            None => self.awaited(request.user_id, wish, target, web).await?,
        };
        preview.ok_or(MediaError::NoPreview)
    }

    /// An answer that is young enough: at the time that is asked for, which is not in the future, or is already past its
    /// life's end then. Nothing that is older can be had of the past, so the first that was made after it serves.
    fn kept_preview(&self, wish: &Wish, at_ms: Option<u64>) -> Option<Kept> {
        let kept = self.inner().previews.kept.get(wish)?;
        let now_ms = self.now_ms();
        let age_ms = |at_ms: u64| at_ms.saturating_sub(kept.made_ms);
        let (at_ms, lifetime_ms) = match kept.preview {
            Some(_) => {
                let lifetime_ms = self.config().previews.lifetime_s.saturating_mul(1_000);
                (at_ms.unwrap_or(now_ms).min(now_ms), lifetime_ms)
            }
            None => (now_ms, FAILURE_LIFETIME_MS),
        };
        let is_young = age_ms(at_ms) < lifetime_ms;
        let may_be_kept = age_ms(now_ms) < lifetime_ms.max(MAX_AGE_MS);
        (is_young && may_be_kept).then_some(kept)
    }

    /// Waits until the page was read: by a task that this begins, or by one that is under way.
    async fn awaited(
        &self,
        user_id: &UserId,
        wish: Wish,
        target: Target,
        web: Arc<dyn Web>,
    ) -> Result<Option<Preview>, MediaError> {
        let mut outcome = self.begin(user_id, wish, target, web)?;
        let Ok(outcome) = outcome.wait_for(Option::is_some).await else { return Ok(None) };
        Ok((*outcome).clone().flatten())
    }

    fn begin(
        &self,
        user_id: &UserId,
        wish: Wish,
        target: Target,
        web: Arc<dyn Web>,
    ) -> Result<watch::Receiver<Outcome>, MediaError> {
        let previews = &self.inner().previews;
        let mut wanted = previews.wanted.lock();
        if let Some(outcome) = wanted.get(&wish) {
            return Ok(outcome.clone());
        }
        let place = previews.places.take(user_id)?;
        let (sender, receiver) = watch::channel(None);
        wanted.insert(wish.clone(), receiver.clone());
        drop(wanted);
        let reading = Reading { media: self.clone(), wish, _place: place };
        self.spawn(async move { reading.run(&target, web.as_ref(), &sender).await });
        Ok(receiver)
    }
}

/// A page that is being read, or waits for it. Whoever asks from now on waits with the others, until this is dropped.
struct Reading {
    media: Media,
    wish: Wish,
    _place: Place,
}

impl Reading {
    async fn run(self, target: &Target, web: &dyn Web, outcome: &watch::Sender<Outcome>) {
        let previews = &self.media.inner().previews;
        let Ok(_turn) = previews.reading.acquire().await else { return };
        let made = self.media.made_preview(target, self.wish.language.as_deref(), web).await;
        let preview = match made {
            Ok(preview) => Some(Arc::new(preview)),
            Err(error) => {
                tracing::debug!(url = %self.wish.url, %error, "no preview");
                None
            }
        };
        let kept = Kept { made_ms: self.media.now_ms(), preview: preview.clone() };
        previews.kept.insert(self.wish.clone(), kept);
        outcome.send_replace(Some(preview));
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.media.inner().previews.wanted.lock().remove(&self.wish);
    }
}

/// A wish for languages that can be passed on.
fn accepted(language: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-,;=.* ".contains(&byte);
    let language = language.trim();
    let valid = (1..=MAX_LANGUAGE_BYTES).contains(&language.len());
    (valid && language.bytes().all(allowed)).then(|| language.to_owned())
}

#[cfg(test)]
mod tests;
