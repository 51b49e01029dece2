//! `/.well-known/matrix/server`: to which name a server delegates (SS "Resolving server names", step 3).

use std::{future::Future, sync::Arc, time::Duration};

use http::{HeaderMap, header};
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use tokio::{
    sync::{Mutex, OwnedMutexGuard, Semaphore},
    time::Instant,
};

/// Hosts whose answers are remembered; the longest unused are forgotten first.
const MAX_HOSTS: usize = 10_000;
/// Hosts that are asked at once: more than others speak to us of at a time.
const MAX_ASKING: usize = 256;
/// How long an answer is good that does not say.
const DEFAULT_AGE: Duration = Duration::from_hours(24);
/// How long any answer is good at most.
const MAX_AGE: Duration = Duration::from_hours(48);
/// How long any answer is good at least: no server is worth asking with every request.
const MIN_AGE: Duration = Duration::from_mins(5);
/// How long a failure is remembered at first; each further one doubles it.
const FIRST_FAILURE_AGE: Duration = Duration::from_mins(2);
/// How long a failure is remembered at most.
const MAX_FAILURE_AGE: Duration = Duration::from_hours(1);

/// What was asked of a host gave this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It delegates to this name; good for so long.
    Delegated(OwnedServerName, Duration),
    /// It answered, and does not delegate: why.
    None(String),
    /// It was not reached, or failed: why.
    Failed(String),
}

/// What is remembered of one host.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// The name that it delegates to.
    delegated: Option<OwnedServerName>,
    /// Until when a delegation may be used although it cannot be fetched again.
    usable_until: Option<Instant>,
    /// When to ask again.
    ask_after: Option<Instant>,
    /// Failures in a row.
    failures: u32,
}

/// Remembers answers.
#[derive(Debug)]
pub(crate) struct WellKnown {
    hosts: Cache<OwnedServerName, Arc<Mutex<Entry>>>,
    asking: Arc<Semaphore>,
}

impl WellKnown {
    pub(crate) fn new() -> Self {
        Self { hosts: Cache::new(MAX_HOSTS), asking: Arc::new(Semaphore::new(MAX_ASKING)) }
    }

    /// The name that a host delegates to; asks once for all who want to know. What was asked is learned
    /// even if nobody waits for it any more: who asks next need not begin again.
    pub(crate) async fn delegated(
        &self,
        host: &ServerName,
        ask: impl Future<Output = Answer> + Send + 'static,
    ) -> Option<OwnedServerName> {
        let fresh = || Ok::<_, std::convert::Infallible>(Arc::default());
        let Ok(entry) = self.hosts.get_or_insert_with(host, fresh);
        let mut entry: OwnedMutexGuard<Entry> = entry.lock_owned().await;
        if entry.ask_after.is_some_and(|at| at > Instant::now()) {
            return entry.delegated.clone();
        }
        let place = Arc::clone(&self.asking).acquire_owned().await.ok()?;
        let host = host.to_owned();
        let asking = tokio::spawn(async move {
            let answer = ask.await;
            drop(place);
            tracing::debug!(%host, ?answer, "well-known");
            entry.learn(answer, Instant::now());
            entry.delegated.clone()
        });
        asking.await.ok().flatten()
    }
}

impl Entry {
    fn learn(&mut self, answer: Answer, now: Instant) {
        match answer {
            Answer::Delegated(name, age) => {
                *self = Self {
                    delegated: Some(name),
                    usable_until: Some(now + MAX_AGE),
                    ask_after: Some(now + age.clamp(MIN_AGE, MAX_AGE)),
                    failures: 0,
                };
            }
            Answer::None(_) => self.fail(now, false),
            // A server that fails for a moment has not moved.
            Answer::Failed(_) => self.fail(now, self.usable_until.is_some_and(|at| at > now)),
        }
    }

    fn fail(&mut self, now: Instant, keep: bool) {
        if !keep {
            self.delegated = None;
            self.usable_until = None;
        }
        let age = FIRST_FAILURE_AGE.saturating_mul(1 << self.failures.min(10)).min(MAX_FAILURE_AGE);
        self.failures = self.failures.saturating_add(1);
        self.ask_after = Some(now + age);
    }
}

/// How long an answer with these headers is good: by `Cache-Control`, else by `Expires`.
pub(crate) fn age(headers: &HeaderMap) -> Duration {
    let directives = headers.get_all(header::CACHE_CONTROL).iter();
    let directives: Vec<_> = directives.filter_map(|value| value.to_str().ok()).collect();
    for directive in directives.iter().flat_map(|line| line.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        if directive == "no-store" || directive == "no-cache" {
            return MIN_AGE;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=")
            && let Ok(seconds) = seconds.trim_matches('"').parse()
        {
            return Duration::from_secs(seconds).clamp(MIN_AGE, MAX_AGE);
        }
    }
    let date = |name| httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok();
    // By the other server's own clock, which need not be right.
    match (headers.contains_key(header::EXPIRES), date(header::EXPIRES), date(header::DATE)) {
        (true, Some(expires), Some(now)) => {
            expires.duration_since(now).unwrap_or_default().clamp(MIN_AGE, MAX_AGE)
        }
        // `Expires: 0` and the like mean that it has expired.
        (true, None, _) => MIN_AGE,
        _ => DEFAULT_AGE,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::HeaderValue;
    use ruma::server_name;
    use tokio::time::{advance, sleep, timeout};

    use super::*;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_age_is_the_servers_word_within_bounds() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let cache_control = |value| age(&headers(&[(header::CACHE_CONTROL, value)]));
        assert_eq!(age(&HeaderMap::new()), minutes(24 * 60));
        assert_eq!(cache_control("public, max-age=3600"), minutes(60));
        assert_eq!(cache_control("max-age=1"), minutes(5));
        assert_eq!(cache_control("Max-Age=99999999"), minutes(48 * 60));
        assert_eq!(cache_control("no-store"), minutes(5));
        assert_eq!(cache_control("public"), minutes(24 * 60));
        assert_eq!(cache_control("max-age=soon"), minutes(24 * 60));

        let date = (header::DATE, "Wed, 21 Oct 2015 07:28:00 GMT");
        let expires = (header::EXPIRES, "Wed, 21 Oct 2015 08:28:00 GMT");
        assert_eq!(age(&headers(&[date.clone(), expires.clone()])), minutes(60));
        let max_age = (header::CACHE_CONTROL, "max-age=600");
        assert_eq!(age(&headers(&[date.clone(), expires, max_age])), minutes(10));
        assert_eq!(age(&headers(&[date, (header::EXPIRES, "0")])), minutes(5));
    }

    /// A cache whose host answers what it is told to.
    struct Asked {
        cache: WellKnown,
        count: Arc<AtomicUsize>,
    }

    impl Asked {
        fn new() -> Self {
            Self { cache: WellKnown::new(), count: Arc::default() }
        }

        async fn ask(&self, answer: Answer) -> Option<OwnedServerName> {
            self.ask_slow(answer, Duration::ZERO).await
        }

        async fn ask_slow(&self, answer: Answer, delay: Duration) -> Option<OwnedServerName> {
            let count = Arc::clone(&self.count);
            let ask = async move {
                count.fetch_add(1, Ordering::Relaxed);
                sleep(delay).await;
                answer
            };
            self.cache.delegated(server_name!("example.org"), ask).await
        }

        fn count(&self) -> usize {
            self.count.load(Ordering::Relaxed)
        }
    }

    fn delegated(name: &str, minutes: u64) -> Answer {
        Answer::Delegated(name.try_into().unwrap(), Duration::from_secs(60 * minutes))
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_remembered_as_long_as_they_are_good() {
        let host = Asked::new();
        assert_eq!(host.ask(delegated("a.example", 60)).await.unwrap(), "a.example");
        advance(Duration::from_mins(59)).await;
        assert_eq!(host.ask(delegated("b.example", 60)).await.unwrap(), "a.example");
        advance(Duration::from_mins(2)).await;
        assert_eq!(host.ask(delegated("b.example", 60)).await.unwrap(), "b.example");
        assert_eq!(host.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_wait_for_an_answer_spares_the_next_one_the_wait() {
        for (answer, wanted) in [
            (Answer::Failed("no connection".to_owned()), None),
            (delegated("a.example", 60), Some("a.example")),
        ] {
            let host = Asked::new();
            let second = Duration::from_secs(1);
            let asked = timeout(second, host.ask_slow(answer, 10 * second)).await;
            assert!(asked.is_err());
            advance(9 * second).await;
            let asked = timeout(second, host.ask(delegated("b.example", 60))).await.unwrap();
            assert_eq!(asked.as_ref().map(|name| name.as_str()), wanted);
            assert_eq!(host.count(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_remembered_longer_each_time_up_to_an_hour() {
        let host = Asked::new();
        for minutes in [2, 4, 8, 16, 32, 60, 60] {
            let before = host.count();
            assert_eq!(host.ask(Answer::None("404".to_owned())).await, None);
            assert_eq!(host.count(), before + 1);
            advance(Duration::from_secs(60 * minutes - 1)).await;
            assert_eq!(host.ask(Answer::None("404".to_owned())).await, None);
            assert_eq!(host.count(), before + 1, "{minutes} minutes");
            advance(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delegation_outlives_failures_for_two_days_but_not_a_clear_no() {
        let failed = || Answer::Failed("refused".to_owned());
        let host = Asked::new();
        host.ask(delegated("a.example", 60)).await;
        advance(Duration::from_hours(2)).await;
        assert_eq!(host.ask(failed()).await.unwrap(), "a.example");
        assert_eq!(host.count(), 2);
        advance(Duration::from_hours(46)).await;
        assert_eq!(host.ask(failed()).await, None);

        let host = Asked::new();
        host.ask(delegated("a.example", 60)).await;
        advance(Duration::from_hours(2)).await;
        assert_eq!(host.ask(Answer::None("404".to_owned())).await, None);
    }
}
