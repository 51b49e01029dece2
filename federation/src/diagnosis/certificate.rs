//! What a certificate says, for people.

use std::time::Duration;

use rustls::{
    CertificateError, Error, RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::{date, duration};

/// A name that no certificate is for.
const NOBODY: &str = "nobody.invalid";

/// Names and times of a certificate; `None` where it has none or they cannot be read.
///
/// The library reads certificates only to judge them. So it is asked to judge for a name and for times
/// that cannot be right, and its reasons hold what the certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Whom it is for.
    pub(super) names: Vec<String>,
    /// Seconds since 1970.
    pub(super) not_before: Option<u64>,
    /// Seconds since 1970.
    pub(super) not_after: Option<u64>,
}

impl Contents {
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Self {
        let Ok(parsed) = ParsedCertificate::try_from(certificate) else {
            return Self::default();
        };
        let not_before = match judge(&parsed, 0) {
            Some(CertificateError::NotValidYetContext { not_before, .. }) => {
                Some(not_before.as_secs())
            }
            _ => None,
        };
        let not_after = match judge(&parsed, u64::MAX) {
            Some(CertificateError::ExpiredContext { not_after, .. }) => Some(not_after.as_secs()),
            _ => None,
        };
        Self { names: names(&parsed), not_before, not_after }
    }

    /// Whom it is for.
    pub(super) fn names(&self) -> String {
        if self.names.is_empty() { "nobody".to_owned() } else { self.names.join(", ") }
    }

    /// From when to when.
    pub(super) fn validity(&self, now_ms: u64) -> String {
        let told =
            |at: Option<u64>| at.map_or("unknown".to_owned(), |at| date(at.saturating_mul(1_000)));
        let left = self.not_after.and_then(|at| at.checked_sub(now_ms / 1_000));
        let left = left.map_or(String::new(), |left| {
            format!(" ({} from now)", duration(Duration::from_secs(left)))
        });
        format!("valid from {} to {}{left}", told(self.not_before), told(self.not_after))
    }
}

/// What the library has against a certificate at a time, before it looks for who issued it.
fn judge(certificate: &ParsedCertificate<'_>, at_s: u64) -> Option<CertificateError> {
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at_s));
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    let nobody = RootCertStore::empty();
    match verify_server_cert_signed_by_trust_anchor(certificate, &nobody, &[], at, algorithms) {
        Err(Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

fn names(certificate: &ParsedCertificate<'_>) -> Vec<String> {
    let Ok(nobody) = ServerName::try_from(NOBODY) else { return Vec::new() };
    match verify_server_name(certificate, &nobody) {
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) => presented.iter().map(|name| plain(name).to_owned()).collect(),
        _ => Vec::new(),
    }
}

/// `a.example` of `DnsName("a.example")`.
fn plain(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(names: &[&str], from: i32, to: i32) -> CertificateDer<'static> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn names_and_times_are_read() {
        let read =
            Contents::read(&certificate(&["a.example", "*.b.example", "127.0.0.1"], 2020, 2021));
        assert_eq!(read.names(), "a.example, *.b.example, 127.0.0.1");
        assert_eq!(read.not_before, Some(1_577_836_800));
        assert_eq!(read.not_after, Some(1_609_459_200));
        let expired = read.validity(1_700_000_000_000);
        assert!(expired.ends_with("to Fri, 01 Jan 2021 00:00:00 GMT"), "{expired}");
        let day_before = read.validity(1_609_372_800_000);
        assert!(day_before.ends_with("(24 hours from now)"), "{day_before}");
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        let read = Contents::read(&CertificateDer::from(vec![1, 2, 3]));
        assert_eq!(read, Contents::default());
        assert_eq!(read.names(), "nobody");
        assert_eq!(read.validity(0), "valid from unknown to unknown");
    }
}
