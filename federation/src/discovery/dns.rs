//! Names to addresses and services.

use std::{collections::HashSet, fmt, net::IpAddr, time::Duration};

use async_trait::async_trait;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};

/// Answers that the resolver remembers, of all kinds.
const CACHED_ANSWERS: u64 = 8192;
/// How long it remembers at most that a name does not exist.
const NEGATIVE_TTL: Duration = Duration::from_hours(1);
/// How long it remembers anything at most.
const POSITIVE_TTL: Duration = Duration::from_hours(24);
/// Where name servers are asked when the system names none: what the C library does too.
const DEFAULT_NAME_SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
/// Addresses of one name that are used; who has more is reached by these.
const MAX_ADDRESSES: usize = 8;
/// Servers of one service that are used.
const MAX_SERVICES: usize = 16;

/// One server of a service (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Lower ones are tried first.
    pub priority: u16,
    /// Among equal priorities, the share of requests.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, without a dot at its end; empty if the service is expressly not there.
    pub target: String,
}

/// Why a name gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// There are no such records.
    #[error("no record was found for {0}")]
    NoRecords(String),
    /// It is not known whether there are.
    #[error("{name} cannot be looked up: {reason}")]
    Failed {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// Asks the domain name system.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync + 'static {
    /// The addresses of a host, in the order to try them.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError>;

    /// The servers of a service, such as `_matrix-fed._tcp.example.org`, in no order.
    async fn services(&self, name: &str) -> Result<Vec<Service>, DnsError>;
}

/// The name servers that the system is configured with, and its file of hosts.
pub struct SystemResolver(TokioResolver);

impl fmt::Debug for SystemResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemResolver").finish_non_exhaustive()
    }
}

impl SystemResolver {
    /// Reads the system's configuration.
    pub fn new() -> Result<Self, String> {
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "the system names no name servers; asking {DEFAULT_NAME_SERVER}");
            let servers = vec![NameServerConfig::udp_and_tcp(DEFAULT_NAME_SERVER)];
            let config = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        });
        let mut builder = builder;
        let options = builder.options_mut();
        // Addresses are tried in this order, and there are more servers whose version 6 leads nowhere.
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = CACHED_ANSWERS;
        options.negative_max_ttl = Some(NEGATIVE_TTL);
        options.positive_max_ttl = Some(POSITIVE_TTL);
        builder.build().map(Self).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let found = self.0.lookup_ip(absolute(host)).await.map_err(|error| failed(host, &error))?;
        let mut seen = HashSet::new();
        let addresses = found.iter().filter(|address| seen.insert(*address));
        Ok(addresses.take(MAX_ADDRESSES).collect())
    }

    async fn services(&self, name: &str) -> Result<Vec<Service>, DnsError> {
        let found =
            self.0.srv_lookup(absolute(name)).await.map_err(|error| failed(name, &error))?;
        let services = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(service) => Some(Service {
                priority: service.priority,
                weight: service.weight,
                port: service.port,
                target: service.target.to_ascii().trim_end_matches('.').to_owned(),
            }),
            _ => None,
        });
        Ok(services.take(MAX_SERVICES).collect())
    }
}

/// The name with a dot at its end: the system's search domains are for people, not for server names.
fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

fn failed(name: &str, error: &NetError) -> DnsError {
    let name = name.to_owned();
    if error.is_no_records_found() {
        DnsError::NoRecords(name)
    } else {
        DnsError::Failed { name, reason: error.to_string() }
    }
}
