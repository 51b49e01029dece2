//! Connecting to each address, and what is shown there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use ruma::ServerName;
use rustls::{CertificateError, Error, RootCertStore};

use super::{Examination, Failed, certificate::Contents};
use crate::transport::{
    connect::{ConnectError, Network},
    tls::{self, Shown},
};

/// A certificate that ends sooner is worth a warning: most are renewed earlier.
const RENEWAL: Duration = Duration::from_hours(7 * 24);

/// What became of one address.
struct Attempt {
    address: SocketAddr,
    /// The version of TLS, if it was reached.
    reached: Result<String, ConnectError>,
    shown: Option<Shown>,
}

impl Examination<'_> {
    /// Connects to every address; one must do.
    pub(super) async fn connections(
        &mut self,
        authority: &ServerName,
        addresses: Vec<SocketAddr>,
    ) -> Result<(), Failed> {
        self.step(format!("TLS with a certificate for {}", authority.host()));
        let roots = match tls::roots(self.config) {
            Ok(roots) if roots.is_empty() => {
                return Err(self.bad(
                    "no certificate authority is trusted: the operating system names none (on Debian, the \
                     package ca-certificates brings them), nor does federation.ca_files",
                ));
            }
            Ok(roots) => Arc::new(roots),
            Err(error) => return Err(self.bad(error.to_string())),
        };
        let network = self.transport.network();
        let attempts =
            addresses.into_iter().map(|address| attempt(network, &roots, address, authority));
        let attempts = join_all(attempts).await;
        let any = attempts.iter().any(|attempt| attempt.reached.is_ok());
        for attempt in attempts {
            self.tell_of(attempt, authority);
        }
        if any {
            return Ok(());
        }
        Err(self.bad("no address can be used"))
    }

    fn tell_of(&mut self, attempt: Attempt, authority: &ServerName) {
        let now_ms = self.clock.now_ms();
        let Attempt { address, reached, shown } = attempt;
        let refused = shown.as_ref().and_then(|shown| shown.refused.clone());
        match reached {
            Ok(version) => self.good(format!("{address} is connected, by {version}")),
            Err(error) => self.warn(error.to_string()),
        }
        if let Some(shown) = shown {
            let contents = Contents::read(&shown.certificate);
            self.note(format!("its certificate is for {}", contents.names()));
            self.note(contents.validity(now_ms));
            let soon = now_ms / 1_000 + RENEWAL.as_secs();
            if refused.is_none() && contents.not_after.is_some_and(|at| at < soon) {
                self.warn("which is soon: is it renewed?");
            }
        }
        if let Some(hint) = refused.and_then(|error| hint(&error, authority)) {
            self.note(hint);
        }
    }
}

async fn attempt(
    network: &Network,
    roots: &Arc<RootCertStore>,
    address: SocketAddr,
    authority: &ServerName,
) -> Attempt {
    // Each with a witness of its own.
    let (tls, witness) = match tls::witnessed(Arc::clone(roots)) {
        Ok(witnessed) => witnessed,
        Err(error) => {
            let reached = Err(ConnectError::Unreachable(error.to_string()));
            return Attempt { address, reached, shown: None };
        }
    };
    let network = Network { tls, ..network.clone() };
    let reached = network.connect_to(address, authority).await.map(|stream| {
        let version = stream.get_ref().1.protocol_version();
        match version.and_then(|version| version.as_str()) {
            Some(version) => version.replace("TLSv1_", "TLS 1."),
            None => "TLS".to_owned(),
        }
    });
    Attempt { address, reached, shown: witness.shown() }
}

/// What to do about a certificate that is not believed.
fn hint(error: &Error, authority: &ServerName) -> Option<String> {
    let Error::InvalidCertificate(error) = error else { return None };
    match error {
        // The latter: somebody else goes by the name of an authority that is trusted.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Some(
            "whoever issued it is not trusted: the server may leave out the certificates in between, or \
             belong to a private network, whose authority federation.ca_files can name"
                .to_owned(),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Some(format!(
                "it must be for {}: the name that the server has or delegates to, not that of its machine",
                authority.host()
            ))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Some("is the clock of this machine right?".to_owned())
        }
        _ => None,
    }
}
