//! What can be wrong with a configuration.

use std::{fmt, path::PathBuf};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not TOML, or a setting has the wrong type.
    #[error("{origin}: {reason}")]
    Malformed {
        /// The file or environment variable.
        origin: String,
        /// Why, with the key or the line.
        reason: String,
    },
    /// Settings that do not exist.
    #[error("{}", Lines(.0))]
    Unknown(Vec<UnknownKey>),
    /// A value out of its range; the text begins with its key.
    #[error("{0}")]
    Invalid(String),
}

impl ConfigError {
    pub(crate) fn invalid(key: &str, reason: &str) -> Self {
        Self::Invalid(format!("{key}: {reason}"))
    }
}

/// A setting that does not exist, and the one that was probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// As written.
    pub key: String,
    /// The file or environment variable.
    pub origin: String,
    /// The nearest key that exists.
    pub nearest: &'static str,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, origin, nearest } = self;
        write!(f, "{origin}: there is no setting `{key}`; did you mean `{nearest}`?")
    }
}

struct Lines<'a>(&'a [UnknownKey]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, unknown) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{unknown}")?;
        }
        Ok(())
    }
}
