//! OpenID tokens: proof of identity for third parties (CS "OpenID").

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

use hearth_storage::{Commit, Keyspace, postcard_record};
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{TokenHash, Users, UsersError, tokens::new_token};

/// How long a token is good for.
const LIFETIME_S: u64 = 3_600;
/// Expired tokens are deleted this often.
const SWEEP_INTERVAL_MS: u64 = 3_600_000;
/// Expired tokens deleted by one sweep.
const SWEEP_SIZE: usize = 10_000;

/// When expired tokens were last deleted.
#[derive(Debug, Default)]
pub(crate) struct OpenIdSweep {
    last_ms: AtomicU64,
}

pub(crate) const OPENID_TOKENS: Keyspace<TokenHash, (), OpenIdRow> = Keyspace::new("openid_tokens");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenIdRow {
    pub(crate) user_id: OwnedUserId,
    pub(crate) expires_ms: u64,
}
postcard_record!(OpenIdRow, version = 1);

/// A fresh OpenID token.
#[derive(Clone)]
pub struct OpenIdToken {
    /// The token.
    pub access_token: String,
    /// Seconds until it expires.
    pub expires_in_s: u64,
}

impl Users {
    /// Issues an OpenID token for a user.
    pub async fn create_openid_token(&self, user_id: &UserId) -> Result<OpenIdToken, UsersError> {
        let access_token = new_token("ho_")?;
        let hash = TokenHash::of(&access_token);
        let expires_ms = self.now_ms().saturating_add(LIFETIME_S * 1000);
        let row = OpenIdRow { user_id: user_id.to_owned(), expires_ms };
        let mut commit = Commit::new(&hash);
        commit.put(&OPENID_TOKENS, &hash, &(), &row);
        self.store().commit(commit).await?;
        Ok(OpenIdToken { access_token, expires_in_s: LIFETIME_S })
    }

    /// Whom an OpenID token names; `None` if it is unknown or expired.
    pub async fn openid_user(&self, token: &str) -> Result<Option<OwnedUserId>, UsersError> {
        let row = self.store().get(&OPENID_TOKENS, &TokenHash::of(token), &()).await?;
        let Some(row) = row.filter(|row| self.now_ms() < row.expires_ms) else { return Ok(None) };
        Ok(self.is_active(&row.user_id).await?.then_some(row.user_id))
    }

    /// Deletes expired tokens, now and then.
    pub(crate) async fn sweep_openid_tokens(&self) -> Result<(), UsersError> {
        let now_ms = self.now_ms();
        let last_ms = self.inner.openid.last_ms.load(Ordering::Relaxed);
        if now_ms < last_ms.saturating_add(SWEEP_INTERVAL_MS) {
            return Ok(());
        }
        self.inner.openid.last_ms.store(now_ms, Ordering::Relaxed);
        let expired = self
            .store()
            .bulk(move |view| {
                let mut expired = Vec::new();
                view.for_each(&OPENID_TOKENS, |hash, (), row| {
                    if row.expires_ms <= now_ms {
                        expired.push(hash);
                    }
                    if expired.len() < SWEEP_SIZE {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                })?;
                Ok(expired)
            })
            .await?;
        for hash in expired {
            let mut commit = Commit::new(&hash).lazy();
            commit.delete(&OPENID_TOKENS, &hash, &());
            self.store().commit(commit).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::testing::Bench;

    #[tokio::test]
    async fn a_token_names_its_user_for_an_hour() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let users = &bench.users;
        let token = users.create_openid_token(&alice).await.unwrap().access_token;
        assert_eq!(users.openid_user(&token).await.unwrap(), Some(alice));
        assert_eq!(users.openid_user("ho_nonsense").await.unwrap(), None);
        bench.advance_s(LIFETIME_S);
        assert_eq!(users.openid_user(&token).await.unwrap(), None);
        bench.advance_s(LIFETIME_S);
        users.sweep_openid_tokens().await.unwrap();
        let row = users.store().get(&OPENID_TOKENS, &TokenHash::of(&token), &()).await.unwrap();
        assert_eq!(row, None);
    }

    #[tokio::test]
    async fn deactivated_users_are_named_no_more() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let token = bench.users.create_openid_token(&alice).await.unwrap().access_token;
        bench.users.deactivate(&alice, false).await.unwrap();
        assert_eq!(bench.users.openid_user(&token).await.unwrap(), None);
    }
}
