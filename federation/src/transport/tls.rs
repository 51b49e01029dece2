//! Whose certificates are believed.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::{FederationConfig, FederationError};

/// TLS that trusts the system's authorities and those of `ca_files`. HTTP/1.1 is all it speaks.
pub(super) fn client_config(config: &FederationConfig) -> Result<ClientConfig, FederationError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "cannot read a certificate that the system trusts");
    }
    let (added, ignored) = roots.add_parsable_certificates(native.certs);
    tracing::debug!(added, ignored, "certificate authorities of the system");
    for path in &config.ca_files {
        add_file(&mut roots, path).map_err(|why| {
            FederationError::Config(format!("ca_files: {}: {why}", path.display()))
        })?;
    }
    if roots.is_empty() {
        tracing::warn!("no certificate authority is trusted: no other server can be reached");
    }
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| FederationError::Config(format!("TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
        found = true;
    }
    if found { Ok(()) } else { Err("there is no certificate in it".to_owned()) }
}
