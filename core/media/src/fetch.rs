//! Content of other servers: fetched once, however many ask for it, and kept.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use ruma::UserId;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Content, ContentStream, ContentUri, Media, MediaError, RemoteContent, RemoteMediaError,
    blobs::Staged,
    kinds::{self, HEAD_BYTES},
    schema::{ContentRow, ITEMS},
    turns::{Errand, Refused, Shared, Shares, Ticket, TurnBounds, Turns},
    upload::MAX_NAME_BYTES,
};

/// Items that are fetched at once, each over a connection and into a file of its own; and those that wait besides, so that
/// a client can ask for all pictures of a large room. One server has less than one user, so that a slow server leaves
/// those who look at it room for others. A turn is not waited for longer than clients wait for an answer.
const FETCHES: TurnBounds = TurnBounds {
    running: Shares { all: 128, of_user: 32, of_server: 24 },
    wanted: Shares { all: 4_096, of_user: 128, of_server: 1_024 },
    patience: Duration::from_secs(30),
    refusal: "Too much content is being fetched",
};

/// How long a server may take until its content begins, beside what it is asked to wait for an upload: to be found,
/// connected to, and asked a second time by the old path or at the address that it names.
const MAX_BEGINNING: Duration = Duration::from_secs(30);
/// How long content that comes may take for each [`PACE_BYTES`]. Long enough for a lost connection to recover.
const PACE_PERIOD: Duration = Duration::from_secs(15);
/// About one kilobyte a second, slower than any modem was: who gives less only holds a place.
const PACE_BYTES: usize = 16 * 1_024;
/// How long a server that was asked is believed to be slow to answer. After that it waits for an upload, and those who do
/// not want to wait as long leave.
const MAX_ANSWER_DELAY: Duration = Duration::from_secs(5);

/// How often an item is fetched for one request, if it has to make room again before it is read.
const MAX_ATTEMPTS: usize = 2;
/// Fetches that one request waits for: others began them, for a shorter wait than its own, or got no turn.
const MAX_JOINED: usize = 3;

/// What is being fetched.
#[derive(Debug)]
pub(crate) struct Fetches {
    under_way: Mutex<HashMap<ContentUri, Fetch>>,
    turns: Turns,
}

impl Default for Fetches {
    fn default() -> Self {
        Self { under_way: Mutex::default(), turns: Turns::new(FETCHES) }
    }
}

/// A fetch that is under way, for all who want the item.
#[derive(Clone, Debug)]
struct Fetch {
    /// Until when its server is to wait for an upload.
    until: Instant,
    turn: Shared,
    progress: watch::Receiver<Progress>,
}

/// How far a fetch is.
#[derive(Clone, Debug)]
enum Progress {
    /// It waits for its turn.
    Waits,
    /// Its server was asked at this time.
    Asked(Instant),
    /// Its content comes.
    Comes,
    Ended(Result<(), Failure>),
}

/// Why an item was not fetched.
#[derive(Clone, Debug)]
enum Failure {
    Refused(Refused),
    Remote(RemoteMediaError),
}

impl From<Failure> for MediaError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refused) => refused.into(),
            Failure::Remote(error) => error.into(),
        }
    }
}

impl Media {
    /// What is behind a URI of another server, fetched for this user if it is not kept here.
    pub(crate) async fn remote_content(
        &self,
        user_id: &UserId,
        uri: &ContentUri,
        wait: Duration,
    ) -> Result<Content, MediaError> {
        let until = Instant::now() + wait;
        for _ in 0..MAX_ATTEMPTS {
            if let Some(kept) = self.kept(uri).await? {
                return Ok(kept);
            }
            self.fetched(user_id, uri, until).await?;
        }
        let gone = || MediaError::Remote("other content takes its place at once".to_owned());
        self.kept(uri).await?.ok_or_else(gone)
    }

    /// What is kept here of an item of another server, or of a thumbnail.
    pub(crate) async fn kept(&self, uri: &ContentUri) -> Result<Option<Content>, MediaError> {
        let Some(row) = self.store().get(&ITEMS, &uri.key(), &()).await? else { return Ok(None) };
        let Some(content) = row.content else { return Ok(None) };
        match self.served(uri, content).await {
            Ok(content) => {
                self.note_use(uri, &row.origin).await?;
                Ok(Some(content))
            }
            // It was dropped between the two reads, or its bytes are lost: it can be fetched again.
            Err(MediaError::Internal(reason)) => {
                tracing::debug!(reason, "content is to be fetched again");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until the item was fetched: by a task that this begins, or by those of others. What became of theirs is not
    /// always what would become of one for this user.
    async fn fetched(
        &self,
        user_id: &UserId,
        uri: &ContentUri,
        until: Instant,
    ) -> Result<(), MediaError> {
        for _ in 0..MAX_JOINED {
            let Some(fetch) = self.under_way(uri) else { break };
            fetch.turn.join(user_id);
            let waits_longer = until > fetch.until;
            match fetch.outcome(until).await {
                Err(MediaError::NotYetUploaded) if waits_longer && Instant::now() < until => {}
                Err(MediaError::Busy(_)) => {}
                outcome => return outcome,
            }
        }
        self.fetch(user_id, uri, until)?.outcome(until).await
    }

    fn under_way(&self, uri: &ContentUri) -> Option<Fetch> {
        self.inner().fetches.under_way.lock().get(uri).cloned()
    }

    /// Begins to fetch the item, if nobody has.
    fn fetch(
        &self,
        user_id: &UserId,
        uri: &ContentUri,
        until: Instant,
    ) -> Result<Fetch, MediaError> {
        let fetches = &self.inner().fetches;
        let mut under_way = fetches.under_way.lock();
        if let Some(fetch) = under_way.get(uri) {
            fetch.turn.join(user_id);
            return Ok(fetch.clone());
        }
        let (user_id, server) = (user_id.to_owned(), uri.server_name().to_string());
        let ticket = fetches.turns.ticket(Errand { user_id, server })?;
        let (sender, progress) = watch::channel(Progress::Waits);
        let fetch = Fetch { until, turn: ticket.shared(), progress };
        under_way.insert(uri.clone(), fetch.clone());
        drop(under_way);
        let (media, uri) = (self.clone(), uri.clone());
        self.spawn(async move {
            let listed = Listed { media: media.clone(), uri: uri.clone() };
            let outcome = media.fetch_in_turn(ticket, &uri, until, &sender).await;
            // Whoever is told of the outcome may begin anew.
            drop(listed);
            sender.send_replace(Progress::Ended(outcome));
        });
        Ok(fetch)
    }

    /// Waits for the turn, then fetches; all of it within the time that fetching may take.
    async fn fetch_in_turn(
        &self,
        ticket: Ticket,
        uri: &ContentUri,
        until: Instant,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), Failure> {
        let fetched = async {
            ticket.turn().await.map_err(Failure::Refused)?;
            self.fetch_now(uri, until, progress).await.map_err(Failure::Remote)
        };
        let late = || RemoteMediaError::Failed("it did not arrive in time".to_owned());
        let outcome = timeout(self.config().remote_timeout(), fetched).await;
        outcome.unwrap_or_else(|_| Err(Failure::Remote(late())))
    }

    async fn fetch_now(
        &self,
        uri: &ContentUri,
        until: Instant,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), RemoteMediaError> {
        let fetched = self.asked(uri, until, progress).await?;
        let about = fetched.about.clone();
        let (staged, head) = self.receive(uri, fetched).await?;
        let (media, owned_uri) = (self.clone(), uri.clone());
        let kept = self.detached(async move {
            let whole = staged.finish().await?;
            let content_type = kinds::content_type(about.content_type.as_deref(), &head);
            let file_name = about.file_name.filter(|name| name.len() <= MAX_NAME_BYTES);
            let content = ContentRow {
                hash: whole.hash,
                bytes: whole.bytes,
                inline: kinds::is_inline(&content_type, &head),
                content_type,
                file_name,
                stored_ms: media.now_ms(),
            };
            media.cache(&owned_uri, whole, content).await
        });
        kept.await.map_err(|error| cannot_keep(uri, &error))
    }

    /// Asks the item's server; answers when the content begins to come.
    async fn asked(
        &self,
        uri: &ContentUri,
        until: Instant,
        progress: &watch::Sender<Progress>,
    ) -> Result<RemoteContent, RemoteMediaError> {
        let remote = self.remote().ok_or(RemoteMediaError::NotFound)?;
        let now = Instant::now();
        progress.send_replace(Progress::Asked(now));
        let wait = until.saturating_duration_since(now);
        let limit = self.config().remote_timeout();
        let answer = remote.fetch(uri, self.max_remote_bytes(), wait, limit);
        let silent = |_| RemoteMediaError::Failed("it did not answer in time".to_owned());
        let fetched =
            timeout(MAX_BEGINNING.saturating_add(wait), answer).await.map_err(silent)??;
        progress.send_replace(Progress::Comes);
        Ok(fetched)
    }

    /// What is fetched must be kept, so it must have room.
    fn max_remote_bytes(&self) -> u64 {
        self.config().max_remote_bytes.min(self.config().cache_bytes)
    }

    /// Writes what comes to its end; and its first bytes.
    async fn receive(
        &self,
        uri: &ContentUri,
        fetched: RemoteContent,
    ) -> Result<(Staged, Vec<u8>), RemoteMediaError> {
        let max_bytes = self.max_remote_bytes();
        let RemoteContent { announced_bytes, mut body, .. } = fetched;
        if announced_bytes.is_some_and(|bytes| bytes > max_bytes) {
            return Err(RemoteMediaError::TooLarge);
        }
        let failed = |error: MediaError| cannot_keep(uri, &error);
        let mut staged = self.blobs().stage().await.map_err(failed)?;
        let (mut head, mut pace) = (Vec::new(), Pace::default());
        while let Some(chunk) = pace.next(&mut body).await? {
            let more = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if staged.bytes().saturating_add(more) > max_bytes {
                return Err(RemoteMediaError::TooLarge);
            }
            let missing = HEAD_BYTES.saturating_sub(head.len()).min(chunk.len());
            head.extend_from_slice(chunk.get(..missing).unwrap_or_default());
            staged.write(chunk).await.map_err(failed)?;
        }
        if announced_bytes.is_some_and(|bytes| bytes != staged.bytes()) {
            return Err(RemoteMediaError::Failed("it was cut short".to_owned()));
        }
        Ok((staged, head))
    }
}

/// A fault of this server's, which is logged; the client is told that there is one.
fn cannot_keep(uri: &ContentUri, error: &MediaError) -> RemoteMediaError {
    tracing::warn!(%error, %uri, "cannot keep content of another server");
    RemoteMediaError::Failed("this server cannot keep it".to_owned())
}

impl Fetch {
    /// Waits until it has ended. Who does not wait as long for an upload as its server was asked to leaves earlier.
    async fn outcome(mut self, until: Instant) -> Result<(), MediaError> {
        if until < self.until {
            let asked_at = match self.reaches(|at| !matches!(at, Progress::Waits)).await? {
                Progress::Asked(at) => at,
                _ => until,
            };
            let answered = self.reaches(|at| !matches!(at, Progress::Asked(_)));
            let Ok(_) = timeout_at(until.max(asked_at + MAX_ANSWER_DELAY), answered).await else {
                return Err(MediaError::NotYetUploaded);
            };
        }
        match self.reaches(|at| matches!(at, Progress::Ended(_))).await? {
            Progress::Ended(outcome) => Ok(outcome?),
            _ => Ok(()),
        }
    }

    async fn reaches(
        &mut self,
        wanted: impl FnMut(&Progress) -> bool,
    ) -> Result<Progress, MediaError> {
        match self.progress.wait_for(wanted).await {
            Ok(progress) => Ok(progress.clone()),
            Err(_) => Err(MediaError::Remote("this server is stopping".to_owned())),
        }
    }
}

/// Watches that content comes on.
#[derive(Default)]
struct Pace {
    /// Since the period began.
    bytes: usize,
    /// How long these were waited for. What this server took to write them does not count.
    waited: Duration,
}

impl Pace {
    async fn next(&mut self, body: &mut ContentStream) -> Result<Option<Bytes>, RemoteMediaError> {
        let began = Instant::now();
        let slow = |_| RemoteMediaError::Failed("it comes too slowly".to_owned());
        let chunk = timeout(PACE_PERIOD.saturating_sub(self.waited), body.next());
        let chunk = chunk.await.map_err(slow)?.transpose();
        let chunk = chunk.map_err(|error| RemoteMediaError::Failed(error.to_string()))?;
        self.waited = self.waited.saturating_add(began.elapsed());
        self.bytes = self.bytes.saturating_add(chunk.as_ref().map_or(0, Bytes::len));
        if self.bytes >= PACE_BYTES {
            *self = Self::default();
        }
        Ok(chunk)
    }
}

/// An item among those that are fetched; not any more when dropped.
struct Listed {
    media: Media,
    uri: ContentUri,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.media.inner().fetches.under_way.lock().remove(&self.uri);
    }
}

#[cfg(test)]
mod tests;
