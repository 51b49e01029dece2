//! The two servers: names, certificates, configurations.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use hearth_federation::{
    FederationConfig,
    discovery::{
        Ports,
        dns::{DnsError, Resolver, Service},
    },
    transport::HttpTransport,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::DemoError;
use crate::{Config, RunningServer, StartOptions, keyfile::make_private_dir, start::start};

/// The host in both servers' names; their ports tell them apart.
const HOST: &str = "localhost";
/// Where both listen, and nowhere else.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The networks that they may connect to.
const NETWORK: &str = "127.0.0.0/8";

/// One of the two.
pub(super) struct Server {
    config: Config,
    running: Option<RunningServer>,
}

/// Both, and the folder of everything that they write, which goes when this is dropped.
pub(super) struct Servers {
    pub(super) one: Server,
    pub(super) two: Server,
    folder: TempDir,
}

impl Servers {
    /// Chooses names and makes certificates; starts nothing.
    pub(super) fn new() -> Result<Self, DemoError> {
        let folder = tempfile::Builder::new().prefix("hearth-demo-").tempdir()?;
        let authority = authority(folder.path())?;
        // Free ports, held at the same time so that they differ. They are let go for the servers to
        // take: names must be known before anything listens.
        let ports = (TcpListener::bind((ADDRESS, 0))?, TcpListener::bind((ADDRESS, 0))?);
        let one = Server::new(&folder.path().join("one"), ports.0.local_addr()?, &authority)?;
        let two = Server::new(&folder.path().join("two"), ports.1.local_addr()?, &authority)?;
        Ok(Self { one, two, folder })
    }

    /// Where everything is written.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops both, and removes their data.
    pub(super) async fn close(mut self) -> Result<(), DemoError> {
        self.one.stop().await?;
        self.two.stop().await?;
        Ok(self.folder.close()?)
    }
}

impl Server {
    fn new(folder: &Path, address: SocketAddr, authority: &Authority) -> Result<Self, DemoError> {
        make_private_dir(folder)?;
        let (certificate, key) = authority.issue(folder)?;
        let mut config = Config::default();
        config.server.name = server_name(address)?;
        config.server.data_dir = folder.join("data");
        config.listen.addresses = vec![SocketAddr::new(ADDRESS, 0)];
        config.listen.tls_addresses = vec![address];
        config.listen.tls_certificate = Some(certificate);
        config.listen.tls_key = Some(key);
        config.users.open_registration = true;
        config.federation = FederationConfig {
            allow: vec![HOST.to_owned()],
            allow_networks: NETWORK.parse().into_iter().collect(),
            ca_files: vec![authority.file.clone()],
            // So that nobody has to wait long for the server that was away.
            backoff_min_s: 1,
            backoff_max_s: 1,
            ..FederationConfig::default()
        };
        Ok(Self { config, running: None })
    }

    /// Starts it, at the same addresses as before if it ran.
    pub(super) async fn start(&mut self) -> Result<(), DemoError> {
        let federation = &self.config.federation;
        let transport = HttpTransport::with(federation, Arc::new(Loopback), Ports::default())?;
        let options =
            StartOptions { transport: Some(Arc::new(transport)), ..StartOptions::default() };
        let running = start(self.config.clone(), options).await?;
        self.config.listen.addresses = running.addresses().to_vec();
        self.running = Some(running);
        Ok(())
    }

    /// Stops it, as an operator does.
    pub(super) async fn stop(&mut self) -> Result<(), DemoError> {
        match self.running.take() {
            Some(running) => Ok(running.shutdown().await?),
            None => Ok(()),
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.config.server.name.as_str()
    }

    /// The address for clients.
    pub(super) fn base_url(&self) -> String {
        let address = self.config.listen.addresses.first();
        address.map_or_else(String::new, |address| format!("http://{address}"))
    }
}

fn server_name(address: SocketAddr) -> Result<ruma::OwnedServerName, DemoError> {
    let name = format!("{HOST}:{}", address.port());
    name.as_str().try_into().map_err(|_| std::io::Error::other(format!("{name} is no name")).into())
}

/// A private certificate authority.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its certificate.
    file: PathBuf,
}

fn authority(folder: &Path) -> Result<Authority, DemoError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let file = folder.join("ca.pem");
    fs::write(&file, issuer.pem())?;
    Ok(Authority { issuer, file })
}

impl Authority {
    /// Writes a certificate for the host, and its key.
    fn issue(&self, folder: &Path) -> Result<(PathBuf, PathBuf), DemoError> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![HOST.to_owned()])?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = (folder.join("certificate.pem"), folder.join("key.pem"));
        fs::write(&files.0, certificate.pem())?;
        fs::write(&files.1, key.serialize_pem())?;
        Ok(files)
    }
}

/// Knows one name. The demonstration must not depend on the machine's name servers.
#[derive(Debug)]
struct Loopback;

#[async_trait]
impl Resolver for Loopback {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        if host == HOST { Ok(vec![ADDRESS]) } else { Err(DnsError::NoRecords(host.to_owned())) }
    }

    async fn services(&self, name: &str) -> Result<Vec<Service>, DnsError> {
        Err(DnsError::NoRecords(name.to_owned()))
    }
}
