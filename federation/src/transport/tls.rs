//! Whose certificates are believed.

use std::{path::Path, sync::Arc};

use parking_lot::Mutex;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    WantsVerifier,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use crate::{FederationConfig, FederationError};

/// The system's authorities and those of `ca_files`.
pub(crate) fn roots(config: &FederationConfig) -> Result<RootCertStore, FederationError> {
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
    Ok(roots)
}

/// TLS that trusts these authorities.
pub(super) fn client_config(roots: RootCertStore) -> Result<ClientConfig, FederationError> {
    let tls = builder().map_err(failed)?.with_root_certificates(roots).with_no_client_auth();
    Ok(only_http1(tls))
}

/// TLS that believes the same certificates, and a witness who tells which one was shown.
pub(crate) fn witnessed(
    roots: Arc<RootCertStore>,
) -> Result<(Arc<ClientConfig>, Arc<Witness>), FederationError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
    let witness =
        Arc::new(Witness { verifier: verifier.map_err(failed)?, shown: Mutex::default() });
    let verifier: Arc<dyn ServerCertVerifier> = Arc::<Witness>::clone(&witness);
    // "Dangerous" because it could believe everything; this one adds nothing to the usual verifier.
    let tls = builder().map_err(failed)?.dangerous().with_custom_certificate_verifier(verifier);
    Ok((Arc::new(only_http1(tls.with_no_client_auth())), witness))
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
}

/// HTTP/1.1 is all that is spoken.
fn only_http1(mut tls: ClientConfig) -> ClientConfig {
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    tls
}

fn failed(error: impl std::fmt::Display) -> FederationError {
    FederationError::Config(format!("TLS: {error}"))
}

/// Verifies as usual, and remembers the certificate.
#[derive(Debug)]
pub(crate) struct Witness {
    verifier: Arc<WebPkiServerVerifier>,
    shown: Mutex<Option<Shown>>,
}

/// A certificate as a server showed it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// The server's own, not those of the authorities.
    pub(crate) certificate: CertificateDer<'static>,
    /// Why it is not believed.
    pub(crate) refused: Option<rustls::Error>,
}

impl Witness {
    /// What was shown last.
    pub(crate) fn shown(&self) -> Option<Shown> {
        self.shown.lock().clone()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let refused = verified.as_ref().err().cloned();
        *self.shown.lock() = Some(Shown { certificate: end_entity.clone().into_owned(), refused });
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
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
