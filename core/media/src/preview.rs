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

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use quick_cache::{Weighter, sync::Cache};
use ruma::UserId;
use serde_json::{Map, Value};
use tokio::sync::watch;

use self::target::Target;
pub use self::{
    config::PreviewConfig,
    web::{Web, WebError},
};
use crate::{
    Media, MediaError,
    turns::{Errand, Refused, Shared, Shares, Ticket, TurnBounds, Turns},
};

/// Pages that are read at once, each of them in memory as a whole, and those that wait besides. A user has
/// few of them, and so has a host: slow pages of some are not everybody's. A turn is waited for as long as one slow page
/// takes.
const READING: TurnBounds = TurnBounds {
    running: Shares { all: 24, of_user: 3, of_server: 8 },
    wanted: Shares { all: 256, of_user: 8, of_server: 64 },
    patience: Duration::from_secs(20),
    refusal: "Too many previews are being made",
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

/// What became of a page: `None` while it is read, and in the end, if it could not be fetched.
type Outcome = Option<Result<Option<Preview>, Refused>>;

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
    wanted: Mutex<HashMap<Wish, Wanted>>,
    turns: Turns,
}

/// A page that is being read, or waits for it, for others who want the same.
struct Wanted {
    outcome: watch::Receiver<Outcome>,
    turn: Shared,
}

impl Previews {
    pub(crate) fn new() -> Self {
        Self {
            web: RwLock::new(None),
            kept: Cache::with_weighter(KEPT_ANSWERS, KEPT_BYTES, TextBytes),
            wanted: Mutex::default(),
            turns: Turns::new(READING),
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
        Ok((*outcome).clone().transpose()?.flatten())
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
        if let Some(begun) = wanted.get(&wish) {
            begun.turn.join(user_id);
            return Ok(begun.outcome.clone());
        }
        let server = target.url().host_str().unwrap_or_default().to_owned();
        let ticket = previews.turns.ticket(Errand { user_id: user_id.to_owned(), server })?;
        let (sender, receiver) = watch::channel(None);
        let begun = Wanted { outcome: receiver.clone(), turn: ticket.shared() };
        wanted.insert(wish.clone(), begun);
        drop(wanted);
        let reading = Reading { media: self.clone(), wish, ticket };
        self.spawn(async move { reading.run(&target, web.as_ref(), &sender).await });
        Ok(receiver)
    }
}

/// A page that is being read, or waits for it. Whoever asks from now on waits with the others, until this is dropped.
struct Reading {
    media: Media,
    wish: Wish,
    ticket: Ticket,
}

impl Reading {
    async fn run(self, target: &Target, web: &dyn Web, outcome: &watch::Sender<Outcome>) {
        if let Err(refused) = self.ticket.turn().await {
            outcome.send_replace(Some(Err(refused)));
            return;
        }
        let made = self.media.made_preview(target, self.wish.language.as_deref(), web).await;
        let preview = match made {
            Ok(preview) => Some(Arc::new(preview)),
            Err(error) => {
                tracing::debug!(url = %self.wish.url, %error, "no preview");
                None
            }
        };
        let kept = Kept { made_ms: self.media.now_ms(), preview: preview.clone() };
        self.media.inner().previews.kept.insert(self.wish.clone(), kept);
        outcome.send_replace(Some(Ok(preview)));
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
