//! Rate limits: token buckets for users and addresses, kept as one number each.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use hearth_types::Clock;
use parking_lot::Mutex;
use ruma::UserId;

use crate::{ClassLimits, MatrixError, Rate, RateLimits};

/// So many locks share the buckets.
const SHARDS: usize = 64;

/// A class of endpoints that share limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Login, registration and what else guesses at secrets.
    Login,
    /// Events sent into rooms.
    Message,
    /// Rooms created, joined and invited to.
    Membership,
    /// Content uploaded.
    Upload,
    /// Previews of pages, which this server reads for it.
    Preview,
    /// Everything else that the specification marks as rate-limited.
    General,
}

/// Counts what users and addresses spend.
///
/// A bucket is the time at which it will be full again, in microseconds (the "generic cell rate
/// algorithm"): one map entry of two words. A bucket that is full says nothing, so forgetting it loses
/// nothing; when `max_tracked` is reached such are forgotten first, then the fullest.
#[derive(Debug)]
pub struct Limiter {
    limits: RateLimits,
    shards: Box<[Mutex<Shard>]>,
    max_per_shard: usize,
    hasher: RandomState,
    clock: Arc<dyn Clock>,
}

/// Whose bucket (hashed with a random seed; a collision merges two buckets, which harms little) →
/// when it is full again, in microseconds.
type Shard = HashMap<u64, u64>;

#[derive(Hash)]
enum Subject<'a> {
    User(&'a UserId),
    Address(u128),
}

impl Limiter {
    /// `limits` are valid.
    pub(crate) fn new(limits: RateLimits, clock: Arc<dyn Clock>) -> Self {
        let max_per_shard = limits.max_tracked.div_ceil(SHARDS);
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { limits, shards, max_per_shard, hasher: RandomState::new(), clock }
    }

    /// Spends one request of the user's; the error is 429 `M_LIMIT_EXCEEDED` with the time to wait.
    /// Handlers call this for users that no token proves, such as the target of a login.
    pub fn charge_user(&self, class: Class, user_id: &UserId) -> Result<(), MatrixError> {
        self.charge(class, self.class(class).user, &Subject::User(user_id))
    }

    /// Spends one request of the address's. An IPv6 address counts as its /64 network, which one client
    /// has to itself.
    pub fn charge_address(&self, class: Class, address: IpAddr) -> Result<(), MatrixError> {
        let bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits() >> 64 << 64,
        };
        self.charge(class, self.class(class).address, &Subject::Address(bits))
    }

    fn class(&self, class: Class) -> ClassLimits {
        match class {
            Class::Login => self.limits.login,
            Class::Message => self.limits.message,
            Class::Membership => self.limits.membership,
            Class::Upload => self.limits.upload,
            Class::Preview => self.limits.preview,
            Class::General => self.limits.general,
        }
    }

    fn charge(&self, class: Class, rate: Rate, subject: &Subject<'_>) -> Result<(), MatrixError> {
        if !self.limits.enabled {
            return Ok(());
        }
        let key = self.hasher.hash_one((class, subject));
        let now_us = self.clock.now_ms().saturating_mul(1_000);
        let shard_index = usize::try_from(key % SHARDS as u64).unwrap_or_default();
        let Some(shard) = self.shards.get(shard_index) else { return Ok(()) };
        let mut shard = shard.lock();
        let full_at_us = shard.get(&key).copied().unwrap_or_default();
        match spend(full_at_us, now_us, rate) {
            Ok(full_at_us) => {
                if shard.len() >= self.max_per_shard && !shard.contains_key(&key) {
                    make_room(&mut shard, now_us);
                }
                shard.insert(key, full_at_us);
                Ok(())
            }
            Err(wait) => Err(MatrixError::limit_exceeded(wait)),
        }
    }

    /// How many buckets are remembered now.
    #[cfg(test)]
    fn tracked(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

/// Takes one request out of a bucket: when it will be full again, or how long to wait.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the configuration bounds the rate to 1e-5..=1e6, so the quotient is 1 to 1e11"
)]
fn spend(full_at_us: u64, now_us: u64, rate: Rate) -> Result<u64, Duration> {
    let interval_us = (1e6 / rate.per_second) as u64;
    let depth_us = interval_us.saturating_mul(u64::from(rate.burst));
    let empty_at_us = now_us.saturating_add(depth_us);
    // Further away than an empty bucket can be: the clock was set back.
    let full_at_us = full_at_us.clamp(now_us, empty_at_us).saturating_add(interval_us);
    match full_at_us.checked_sub(empty_at_us) {
        None | Some(0) => Ok(full_at_us),
        Some(wait_us) => Err(Duration::from_micros(wait_us)),
    }
}

/// Forgets buckets that are full, or else the one that is nearest to it.
fn make_room(shard: &mut Shard, now_us: u64) {
    let before = shard.len();
    shard.retain(|_, full_at_us| *full_at_us > now_us);
    if shard.len() == before {
        let fullest = shard.iter().min_by_key(|(_, full_at_us)| **full_at_us);
        if let Some(key) = fullest.map(|(key, _)| *key) {
            shard.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_types::ManualClock;
    use ruma::{owned_user_id, user_id};

    use super::*;

    fn limiter(rate: Rate, max_tracked: usize) -> (Limiter, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let class = ClassLimits { user: rate, address: rate };
        let limits = RateLimits {
            max_tracked,
            login: class,
            message: class,
            membership: class,
            general: class,
            ..RateLimits::default()
        };
        (Limiter::new(limits, clock.clone()), clock)
    }

    fn wait_ms(result: Result<(), MatrixError>) -> Option<u128> {
        result.err().and_then(|error| error.retry_after()).map(|wait| wait.as_millis())
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let (limiter, clock) = limiter(Rate::new(2.0, 3), 1_024);
        let charge = || wait_ms(limiter.charge_user(Class::Message, user_id!("@a:b")));
        assert_eq!([charge(), charge(), charge()], [None; 3]);
        assert_eq!(charge(), Some(500));
        // A refused request costs nothing.
        assert_eq!(charge(), Some(500));
        clock.advance(Duration::from_millis(499));
        assert_eq!(charge(), Some(1));
        clock.advance(Duration::from_millis(1));
        assert_eq!([charge(), charge()], [None, Some(500)]);
        clock.advance(Duration::from_hours(1));
        assert_eq!([charge(), charge(), charge(), charge()], [None, None, None, Some(500)]);
    }

    #[test]
    fn users_addresses_and_classes_do_not_share() {
        let (limiter, _) = limiter(Rate::new(1.0, 1), 1_024);
        let address = IpAddr::from([1, 2, 3, 4]);
        assert!(limiter.charge_user(Class::Message, user_id!("@a:b")).is_ok());
        assert!(limiter.charge_user(Class::Message, user_id!("@c:b")).is_ok());
        assert!(limiter.charge_user(Class::Login, user_id!("@a:b")).is_ok());
        assert!(limiter.charge_address(Class::Message, address).is_ok());
        assert!(limiter.charge_user(Class::Message, user_id!("@a:b")).is_err());
        assert!(limiter.charge_address(Class::Message, address).is_err());
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let (limiter, _) = limiter(Rate::new(1.0, 1), 1_024);
        let charge =
            |address: &str| limiter.charge_address(Class::Login, address.parse().unwrap()).is_ok();
        assert!(charge("2001:db8:1:1::1"));
        assert!(!charge("2001:db8:1:1:ffff::2"));
        assert!(charge("2001:db8:1:2::1"));
    }

    #[test]
    fn a_clock_set_back_does_not_lock_anybody_out() {
        let rate = Rate::new(1.0, 2);
        let year_us = 365 * 86_400 * 1_000_000;
        assert_eq!(spend(10 * year_us, year_us, rate), Err(Duration::from_secs(1)));
    }

    #[test]
    fn remembers_no_more_than_it_may_and_keeps_the_worst() {
        let (limiter, _) = limiter(Rate::new(0.001, 2), 1_024);
        let offender = user_id!("@offender:b");
        assert!(limiter.charge_user(Class::Login, offender).is_ok());
        assert!(limiter.charge_user(Class::Login, offender).is_ok());
        for number in 0..20_000 {
            let user_id = UserId::parse(format!("@u{number}:b")).unwrap();
            assert!(limiter.charge_user(Class::Login, &user_id).is_ok());
        }
        assert!(limiter.tracked() <= 1_024);
        assert!(limiter.charge_user(Class::Login, offender).is_err());
    }

    #[test]
    fn full_buckets_are_forgotten_first() {
        let (limiter, clock) = limiter(Rate::new(1.0, 5), 1_024);
        for number in 0..2_000 {
            let user_id = UserId::parse(format!("@u{number}:b")).unwrap();
            assert!(limiter.charge_user(Class::Login, &user_id).is_ok());
        }
        clock.advance(Duration::from_mins(1));
        for number in 0..2_000 {
            let user_id = UserId::parse(format!("@v{number}:b")).unwrap();
            assert!(limiter.charge_user(Class::Login, &user_id).is_ok());
        }
        assert!(limiter.tracked() <= 1_024);
    }

    #[test]
    fn does_nothing_when_disabled() {
        let clock = Arc::new(ManualClock::new(0));
        let limiter = Limiter::new(RateLimits { enabled: false, ..RateLimits::default() }, clock);
        for _ in 0..10_000 {
            assert!(limiter.charge_user(Class::Login, &owned_user_id!("@a:b")).is_ok());
        }
        assert_eq!(limiter.tracked(), 0);
    }
}
