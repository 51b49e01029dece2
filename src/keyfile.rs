//! The signing key on disk: one line, `ed25519 VERSION BASE64`, readable by its owner only.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use hearth_types::{IdentityError, ServerIdentity};
use rand::{RngExt as _, distr::Alphanumeric};
use ruma::OwnedServerName;

/// Characters of a key's version: enough that two keys of one server never share theirs.
const VERSION_LENGTH: usize = 6;

/// Why there is no usable key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file or its folder cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not a key file.
    #[error("{}: not a signing key: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Makes a folder that only its owner may enter, with its parents.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The server's identity from its key file; `None` if there is no such file.
pub fn read(
    path: &Path,
    server_name: &OwnedServerName,
) -> Result<Option<ServerIdentity>, KeyFileError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KeyFileError::Io { path: path.to_owned(), error }),
    };
    warn_if_exposed(path);
    let malformed =
        |reason: &str| KeyFileError::Malformed { path: path.to_owned(), reason: reason.to_owned() };
    let mut words = text.split_whitespace();
    let (Some("ed25519"), Some(version), Some(key), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed("expected `ed25519 VERSION KEY`"));
    };
    let key = BASE64.decode(key).map_err(|_| malformed("the key is not base64"))?;
    ServerIdentity::from_der(server_name.clone(), &key, version.to_owned())
        .map(Some)
        .map_err(|error: IdentityError| malformed(&error.to_string()))
}

/// Makes a key and its file. When another process makes one at the same moment, both end up with
/// the same one.
pub fn create(path: &Path, server_name: &OwnedServerName) -> Result<ServerIdentity, KeyFileError> {
    let version: String =
        rand::rng().sample_iter(Alphanumeric).take(VERSION_LENGTH).map(char::from).collect();
    let line = format!("ed25519 a_{version} {}\n", BASE64.encode(ServerIdentity::generate_key()));
    let failed = |error| KeyFileError::Io { path: path.to_owned(), error };
    publish(path, line.as_bytes()).map_err(failed)?;
    read(path, server_name)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// Puts a private file in place whole and durable, or not at all; keeps one that is already there.
fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let draft = folder.join(format!(".signing.key.{}", std::process::id()));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    // A link, not a rename: it fails when the name is taken, so that no key is ever overwritten.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(folder)?.sync_all()
}

fn warn_if_exposed(path: &Path) {
    if let Ok(metadata) = fs::metadata(path)
        && metadata.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(path = %path.display(), "other users of this machine may read the signing key");
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;

    use super::*;

    #[test]
    fn a_key_survives_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        let name = owned_server_name!("example.org");
        assert!(read(&path, &name).unwrap().is_none());

        let created = create(&path, &name).unwrap();
        let loaded = read(&path, &name).unwrap().unwrap();
        assert_eq!(created.key_pair().public_key(), loaded.key_pair().public_key());
        assert_eq!(created.key_pair().version(), loaded.key_pair().version());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the draft is gone");
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        let name = owned_server_name!("example.org");
        let first = create(&path, &name).unwrap();
        let second = create(&path, &name).unwrap();
        assert_eq!(first.key_pair().public_key(), second.key_pair().public_key());
    }

    #[test]
    fn refuses_what_is_not_a_key_without_showing_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        let name = owned_server_name!("example.org");
        for text in ["", "ed25519 a", "rsa a AAAA", "ed25519 a ????", "ed25519 a c2VjcmV0"] {
            fs::write(&path, text).unwrap();
            let error = read(&path, &name).unwrap_err().to_string();
            assert!(error.contains("not a signing key"), "{error}");
            assert!(!error.contains("c2VjcmV0"), "{error}");
        }
    }
}
