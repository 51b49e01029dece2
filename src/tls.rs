//! The certificate that the server shows, read again when its files change.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_mins(1);

/// A certificate that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct CertificateError {
    path: PathBuf,
    reason: String,
}

/// A certificate with its key, from two files in PEM. Renewed files are taken up without a restart.
#[derive(Debug)]
pub(crate) struct Certificate {
    chain_path: PathBuf,
    key_path: PathBuf,
    shown: Arc<Shown>,
    /// When the files that are shown were changed last.
    stamp: RwLock<Stamp>,
}

/// The times of both files; `None` for one that cannot be seen.
type Stamp = (Option<SystemTime>, Option<SystemTime>);

/// What is shown to whoever connects.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl Certificate {
    /// Reads both files.
    pub(crate) fn read(chain_path: &Path, key_path: &Path) -> Result<Self, CertificateError> {
        let stamp = stamp(chain_path, key_path);
        let key = read(chain_path, key_path)?;
        Ok(Self {
            chain_path: chain_path.to_owned(),
            key_path: key_path.to_owned(),
            shown: Arc::new(Shown(RwLock::new(Arc::new(key)))),
            stamp: RwLock::new(stamp),
        })
    }

    /// Shakes hands with this certificate, whichever it is at the time. HTTP/1.1 is all that follows.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, CertificateError> {
        let shown: Arc<dyn ResolvesServerCert> = Arc::<Shown>::clone(&self.shown);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&self.chain_path, &error))?
            .with_no_client_auth()
            .with_cert_resolver(shown);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reads the files again if they have changed since. What cannot be used is logged and tried again
    /// with the next change: a certificate and its key are not replaced in the same instant.
    pub(crate) fn reload_if_changed(&self) {
        let stamp = stamp(&self.chain_path, &self.key_path);
        if *self.stamp.read() != stamp {
            *self.stamp.write() = stamp;
            self.reload();
        }
    }

    /// Reads the files again. The old certificate stays if they cannot be used.
    pub(crate) fn reload(&self) {
        match read(&self.chain_path, &self.key_path) {
            Ok(key) => {
                *self.shown.0.write() = Arc::new(key);
                tracing::info!(path = %self.chain_path.display(), "read the certificate again");
            }
            Err(error) => tracing::error!(%error, "cannot read the certificate again"),
        }
    }
}

fn stamp(chain_path: &Path, key_path: &Path) -> Stamp {
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    (changed(chain_path), changed(key_path))
}

fn read(chain_path: &Path, key_path: &Path) -> Result<CertifiedKey, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(&bytes(chain_path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(chain_path, &error))?;
    if chain.is_empty() {
        return Err(failed(chain_path, &"there is no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_slice(&bytes(key_path)?)
        .map_err(|error| failed(key_path, &error))?;
    // Fails too if the key is another certificate's.
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map_err(|error| failed(key_path, &error))
}

fn bytes(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|error: io::Error| failed(path, &error))
}

fn failed(path: &Path, reason: &dyn std::fmt::Display) -> CertificateError {
    CertificateError { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn pair(names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
        let error = || Certificate::read(&chain, &key).unwrap_err().to_string();
        assert!(error().contains("chain.pem"), "{}", error());
        let (one, other) = (pair(&["a.example"]), pair(&["b.example"]));
        fs::write(&chain, "nothing").unwrap();
        assert!(error().contains("no certificate in it"), "{}", error());
        fs::write(&chain, &one.0).unwrap();
        assert!(error().contains("key.pem"), "{}", error());
        fs::write(&key, &other.1).unwrap();
        assert!(error().contains("key.pem"), "{}", error());
        fs::write(&key, &one.1).unwrap();
        Certificate::read(&chain, &key).unwrap();
    }

    #[test]
    fn a_bad_renewal_leaves_the_old_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
        let write = |pair: &(String, String)| {
            fs::write(&chain, &pair.0).unwrap();
            fs::write(&key, &pair.1).unwrap();
        };
        let (old, new) = (pair(&["a.example"]), pair(&["a.example"]));
        write(&old);
        let certificate = Certificate::read(&chain, &key).unwrap();
        let shown = || certificate.shown.0.read().cert.clone();
        let first = shown();
        fs::write(&chain, "broken").unwrap();
        certificate.reload();
        assert_eq!(shown(), first);
        write(&new);
        certificate.reload();
        assert_ne!(shown(), first);
    }
}
