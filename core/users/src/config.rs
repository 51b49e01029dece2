//! The `users` section of the configuration.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// A configured secret, which never shows in logs.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// Accounts, sessions, registration and presence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the configuration")]
pub struct UsersConfig {
    /// May anybody who reaches this server make an account?
    pub open_registration: bool,
    /// May anybody who reaches this server have a guest account, which may do little? (CS "Guest Access")
    pub allow_guests: bool,
    /// Tokens that let their holder make an account, without limit of uses. More can be made while the
    /// server runs. Letters, digits and `._~-`, at most 64.
    pub registration_tokens: Vec<Secret>,
    /// Secret that lets tools make accounts at `/_synapse/admin/v1/register`. Absent: the endpoint is off.
    pub registration_shared_secret: Option<Secret>,
    /// The least number of characters of a new password.
    pub password_min_length: usize,
    /// Seconds that an access token lives if its client can refresh it.
    pub access_token_lifetime_s: u64,
    /// Seconds that an access token lives if its client cannot refresh it; 0: until logout.
    pub unrefreshable_token_lifetime_s: u64,
    /// Seconds that an unused refresh token lives; 0: until logout.
    pub refresh_token_lifetime_s: u64,
    /// May a logged-in client get a token that logs in another client?
    pub login_token_enabled: bool,
    /// Do users see who is online?
    pub presence_enabled: bool,
    /// May any user search for any other, not only for those that they share a room with? Read by the
    /// user directory's callers.
    pub search_all_users: bool,
    /// What hashing a password costs.
    pub argon2: Argon2Config,
}

/// What hashing a password costs (argon2id). Higher is safer and slower; applies to new passwords.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Argon2Config {
    /// Memory of one hash in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub iterations: u32,
    /// Lanes of one hash.
    pub parallelism: u32,
    /// Hashes computed at the same time, at most; further ones wait.
    pub concurrency: usize,
}

impl Default for UsersConfig {
    fn default() -> Self {
        Self {
            open_registration: false,
            allow_guests: false,
            registration_tokens: Vec::new(),
            registration_shared_secret: None,
            password_min_length: 8,
            access_token_lifetime_s: 60 * 60,
            unrefreshable_token_lifetime_s: 0,
            refresh_token_lifetime_s: 0,
            login_token_enabled: false,
            presence_enabled: true,
            search_all_users: false,
            argon2: Argon2Config::default(),
        }
    }
}

impl Default for Argon2Config {
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, iterations: 2, parallelism: 1, concurrency: 2 }
    }
}

/// A value of the `users` section that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("users.{key}: {problem}")]
pub struct ConfigError {
    /// The key inside the section.
    pub key: &'static str,
    /// What is wrong with its value.
    pub problem: String,
}

impl UsersConfig {
    /// Cheap password hashes, for tests only.
    #[must_use]
    pub fn for_tests() -> Self {
        Self {
            argon2: Argon2Config { memory_kib: 8, iterations: 1, parallelism: 1, concurrency: 2 },
            ..Self::default()
        }
    }

    /// Checks what the types cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| Err(ConfigError { key, problem: problem.to_owned() });
        if self.password_min_length == 0 || self.password_min_length > 128 {
            return wrong("password_min_length", "must be 1 to 128");
        }
        if self.access_token_lifetime_s < 60 {
            return wrong("access_token_lifetime_s", "must be at least 60");
        }
        if let Some(secret) = &self.registration_shared_secret
            && secret.expose().len() < 8
        {
            return wrong("registration_shared_secret", "must have at least 8 characters");
        }
        if !self.registration_tokens.iter().all(|token| is_registration_token(token.expose())) {
            return wrong(
                "registration_tokens",
                "a token must be 1 to 64 letters, digits or any of \"._~-\"",
            );
        }
        if let Err(error) = self.argon2.params() {
            return wrong("argon2", &error.to_string());
        }
        if self.argon2.concurrency == 0 || self.argon2.concurrency > 64 {
            return wrong("argon2.concurrency", "must be 1 to 64");
        }
        Ok(())
    }

    pub(crate) fn access_token_lifetime(&self, refreshable: bool) -> Option<Duration> {
        if refreshable {
            return Some(Duration::from_secs(self.access_token_lifetime_s));
        }
        lifetime(self.unrefreshable_token_lifetime_s)
    }

    pub(crate) fn refresh_token_lifetime(&self) -> Option<Duration> {
        lifetime(self.refresh_token_lifetime_s)
    }
}

impl Argon2Config {
    pub(crate) fn params(&self) -> Result<argon2::Params, argon2::Error> {
        argon2::Params::new(self.memory_kib, self.iterations, self.parallelism, None)
    }
}

/// The grammar of registration tokens (CS "Token-authenticated registration").
pub(crate) fn is_registration_token(token: &str) -> bool {
    (1..=64).contains(&token.len())
        && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b))
}

fn lifetime(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_closed() {
        let config = UsersConfig::default();
        assert_eq!(config.validate(), Ok(()));
        assert!(!config.open_registration);
        assert!(config.registration_shared_secret.is_none());
    }

    #[test]
    fn names_the_offending_key() {
        let key = |config: UsersConfig| config.validate().unwrap_err().key;
        let config = UsersConfig { password_min_length: 0, ..UsersConfig::default() };
        assert_eq!(key(config), "password_min_length");
        let config = UsersConfig {
            registration_tokens: vec![Secret::new("two words".to_owned())],
            ..UsersConfig::default()
        };
        assert_eq!(key(config), "registration_tokens");
        let config = UsersConfig {
            argon2: Argon2Config { memory_kib: 1, ..Argon2Config::default() },
            ..UsersConfig::default()
        };
        assert_eq!(key(config), "argon2");
    }

    #[test]
    fn secrets_do_not_show() {
        let config = UsersConfig {
            registration_shared_secret: Some(Secret::new("swordfish!".to_owned())),
            ..UsersConfig::default()
        };
        assert!(!format!("{config:?}").contains("swordfish"));
    }

    #[test]
    fn refuses_unknown_keys() {
        let error = serde_json::from_str::<UsersConfig>(r#"{"open_registrations": true}"#);
        assert!(error.unwrap_err().to_string().contains("open_registrations"));
    }
}
