//! Servers on loopback with certificates of a private authority, and names that lead to them.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use hearth_federation::{
    FederationConfig,
    discovery::{
        Ports,
        dns::{DnsError, Resolver, Service},
    },
    transport::HttpTransport,
};
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A private certificate authority, its certificate in a file.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// A configuration that trusts it, and may speak to loopback.
    pub(crate) fn config(&self) -> FederationConfig {
        FederationConfig {
            ca_files: vec![self.folder.path().join("ca.pem")],
            allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
            ..FederationConfig::default()
        }
    }

    fn acceptor(&self, names: &[&str]) -> TlsAcceptor {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A request as a server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) host: String,
    pub(crate) path: String,
}

/// A server that answers every request alike.
pub(crate) struct Machine {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

pub(crate) type Answer = Arc<dyn Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync>;

/// 200 with this body.
pub(crate) fn says(body: impl Into<String>) -> Answer {
    let body = body.into();
    Arc::new(move |_| Response::new(Full::from(body.clone())))
}

impl Machine {
    /// Serves on loopback, on this port or a free one, with a certificate for these names.
    pub(crate) async fn start(ca: &Authority, names: &[&str], port: u16, answer: Answer) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::default());
        let machine =
            Self { address, seen: Arc::clone(&seen), connections: Arc::clone(&connections) };
        let acceptor = ca.acceptor(names);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(|request: Request<Incoming>| {
                        let host = request.headers().get(header::HOST).unwrap().to_str().unwrap();
                        let path = request.uri().to_string();
                        let this = Seen { host: host.to_owned(), path };
                        seen.lock().push(this.clone());
                        let response = answer(&this);
                        async move { Ok::<_, Infallible>(response) }
                    });
                    drop(
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await,
                    );
                });
            }
        });
        machine
    }

    /// One that breaks every connection off when it has taken it.
    pub(crate) async fn breaking_off(ca: &Authority, names: &[&str]) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = ca.acceptor(names);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(acceptor.accept(stream).await);
            }
        });
        address
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The hosts that it was asked for, in order.
    pub(crate) fn hosts(&self) -> Vec<String> {
        self.seen.lock().iter().map(|seen| seen.host.clone()).collect()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.seen.lock().iter().map(|seen| seen.path.clone()).collect()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Names that a test makes up.
#[derive(Debug, Default)]
pub(crate) struct Names {
    addresses: HashMap<String, Vec<IpAddr>>,
    services: HashMap<String, Vec<Service>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    pub(crate) fn host(mut self, name: &str, addresses: &[[u8; 4]]) -> Self {
        let addresses = addresses.iter().map(|&address| IpAddr::from(address)).collect();
        self.addresses.insert(name.to_owned(), addresses);
        self
    }

    pub(crate) fn service(mut self, name: &str, target: &str, port: u16) -> Self {
        let service = Service { priority: 1, weight: 1, port, target: target.to_owned() };
        self.services.entry(name.to_owned()).or_default().push(service);
        self
    }

    /// What was asked, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

#[async_trait]
impl Resolver for Names {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        self.asked.lock().push(host.to_owned());
        let found = self.addresses.get(host).cloned();
        found.ok_or_else(|| DnsError::NoRecords(host.to_owned()))
    }

    async fn services(&self, name: &str) -> Result<Vec<Service>, DnsError> {
        self.asked.lock().push(name.to_owned());
        let found = self.services.get(name).cloned();
        found.ok_or_else(|| DnsError::NoRecords(name.to_owned()))
    }
}

/// A transport over these names, with the ports of these machines as the defaults.
pub(crate) fn transport(
    config: &FederationConfig,
    names: &Arc<Names>,
    federation: u16,
    https: u16,
) -> HttpTransport {
    let resolver = Arc::<Names>::clone(names);
    HttpTransport::with(config, resolver, Ports { federation, https }).unwrap()
}
