//! Wrong passwords are counted, so that nobody tries many: of each user, by who tries.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use ruma::{OwnedUserId, UserId};

use crate::{Users, UsersError, expiring::Expiring};

/// How long wrong passwords count, from the first one on.
const MEMORY: Duration = Duration::from_mins(15);
/// Wrong passwords of one user, shown by one guesser, within that time.
pub(crate) const MAX_WRONG: u32 = 20;
/// Users and guessers that are remembered; older ones make room. Each has cost a hash at least.
const MAX_REMEMBERED: usize = 50_000;
/// The part of an IPv6 address that one client has to itself.
const IPV6_NETWORK: u128 = u128::MAX << 64;

/// Who shows a user's password. Each has a count of their own, so that nobody who merely knows a
/// user's name shuts that user out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guesser {
    /// A session of that user's, proven by an access token.
    Session,
    /// Whoever is at this address, as far as it is known.
    Address(Option<IpAddr>),
}

/// Wrong passwords by whose they should be and who showed them.
#[derive(Debug)]
pub(crate) struct Guesses(Expiring<(OwnedUserId, Guesser), u32>);

impl Guesses {
    pub(crate) fn new() -> Self {
        Self(Expiring::new(MEMORY, MAX_REMEMBERED))
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.0.expire(now_ms);
    }
}

impl Guesser {
    /// An IPv6 address counts as its network.
    fn network(self) -> Self {
        match self {
            Self::Address(Some(IpAddr::V6(address))) => {
                let network = Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK);
                Self::Address(Some(network.into()))
            }
            guesser => guesser,
        }
    }
}

impl Users {
    /// Checks a password unless this guesser has shown too many wrong ones of this user. It counts as
    /// wrong until it is known to be right: those who ask many times at once, or do not wait for the
    /// answer, gain nothing.
    pub(crate) async fn guess_password(
        &self,
        user_id: &UserId,
        password: &str,
        guesser: Guesser,
    ) -> Result<bool, UsersError> {
        let key = (user_id.to_owned(), guesser.network());
        self.count_guess(&key)?;
        let checked = match guesser {
            Guesser::Session => self.confirm_password(user_id, password).await,
            Guesser::Address(_) => self.verify_password(user_id, password).await,
        };
        if !matches!(checked, Ok(false)) {
            self.forgive_guess(&key);
        }
        checked
    }

    fn count_guess(&self, key: &(OwnedUserId, Guesser)) -> Result<(), UsersError> {
        let now_ms = self.now_ms();
        let mut guesses = self.inner.guesses.lock();
        let expires_ms = guesses.0.expires_ms(key).unwrap_or_default();
        match guesses.0.get_mut(now_ms, key) {
            Some(wrong) if *wrong >= MAX_WRONG => {
                let retry_in_ms = expires_ms.saturating_sub(now_ms);
                return Err(UsersError::TooManyGuesses { retry_in_ms });
            }
            Some(wrong) => *wrong += 1,
            None => guesses.0.insert(now_ms, key.clone(), 1),
        }
        Ok(())
    }

    fn forgive_guess(&self, key: &(OwnedUserId, Guesser)) {
        let mut guesses = self.inner.guesses.lock();
        if let Some(wrong) = guesses.0.get_mut(self.now_ms(), key) {
            *wrong = wrong.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;

    use super::*;
    use crate::users::testing::Bench;

    const HOME: Guesser = Guesser::Address(Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)));

    fn is_refused(result: &Result<bool, UsersError>) -> bool {
        matches!(result, Err(UsersError::TooManyGuesses { .. }))
    }

    #[tokio::test]
    async fn so_many_wrong_passwords_are_checked_and_then_not_even_the_right_one() {
        let bench = Bench::new().await;
        let (alice, bob) = (bench.user("alice").await, bench.user("bob").await);
        let guess = async |user: &UserId, password: &str, guesser: Guesser| {
            bench.users.guess_password(user, password, guesser).await
        };
        for _ in 0..MAX_WRONG {
            assert!(!guess(&alice, "wrong horse", HOME).await.unwrap());
        }
        let refused = guess(&alice, "correct horse", HOME).await;
        assert!(
            matches!(refused, Err(UsersError::TooManyGuesses { retry_in_ms: 900_000 })),
            "{refused:?}"
        );
        assert!(guess(&alice, "correct horse", Guesser::Session).await.unwrap());
        let elsewhere = Guesser::Address("192.0.2.1".parse().ok());
        assert!(guess(&alice, "correct horse", elsewhere).await.unwrap());
        assert!(guess(&bob, "correct horse", HOME).await.unwrap());
        bench.advance_s(15 * 60);
        assert!(guess(&alice, "correct horse", HOME).await.unwrap());
    }

    #[tokio::test]
    async fn right_passwords_do_not_count() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        for _ in 0..2 * MAX_WRONG {
            let right = bench.users.guess_password(&alice, "correct horse", HOME).await;
            assert!(right.unwrap());
        }
    }

    // On one thread passwords are checked while they are asked for.
    #[tokio::test(flavor = "multi_thread")]
    async fn guesses_at_the_same_time_count_before_they_are_checked() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let mut guesses = tokio::task::JoinSet::new();
        for _ in 0..2 * MAX_WRONG {
            let (users, alice) = (bench.users.clone(), alice.clone());
            guesses.spawn(async move {
                users.guess_password(&alice, "wrong horse", Guesser::Session).await
            });
        }
        let answers = guesses.join_all().await;
        let refused = answers.iter().filter(|result| is_refused(result)).count();
        assert_eq!(refused, MAX_WRONG as usize);
        // Whoever hangs up has guessed all the same. Some of the passwords may be checked by then.
        let bob = bench.user("bob").await;
        let mut hung_up = 0;
        for _ in 0..MAX_WRONG {
            let mut guess = Box::pin(bench.users.guess_password(&bob, "wrong horse", HOME));
            let pending = std::future::poll_fn(|context| {
                std::task::Poll::Ready(guess.as_mut().poll(context).is_pending())
            });
            hung_up += u32::from(pending.await);
        }
        assert!(hung_up > 0);
        assert!(is_refused(&bench.users.guess_password(&bob, "wrong horse", HOME).await));
    }

    #[tokio::test]
    async fn an_ipv6_network_is_one_guesser() {
        let at = |address: &str| Guesser::Address(address.parse().ok()).network();
        assert_eq!(at("2001:db8:1:1::1"), at("2001:db8:1:1:ffff::2"));
        assert_ne!(at("2001:db8:1:1::1"), at("2001:db8:1:2::1"));
    }
}
