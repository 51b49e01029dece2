//! From the authority that a server's name leads to, to the addresses of its machines (SS "Resolving
//! server names", steps 1, 2, 3.1 to 3.5, and 4 to 6).

use std::{fmt, net::SocketAddr};

use ruma::ServerName;

use super::{
    Ports,
    dns::{DnsError, Resolver},
    srv,
};

/// Addresses that are tried for one authority.
pub const MAX_CANDIDATES: usize = 16;

/// The services that name a server's machines: today's, and the deprecated one.
const SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];

/// Which rule of the specification led to the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The name is an address itself.
    Literal,
    /// The name has a port.
    Port,
    /// An SRV record, under this name.
    Service(String),
    /// None of them: the default port.
    Default,
}

/// Where an authority is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// How it was found.
    pub rule: Rule,
    /// The addresses, in the order to try them. Not checked yet.
    pub candidates: Vec<SocketAddr>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal => f.write_str("the name is an address"),
            Self::Port => f.write_str("the name has a port"),
            Self::Service(name) => write!(f, "the SRV record {name}"),
            Self::Default => f.write_str("the default port"),
        }
    }
}

/// Finds the addresses of an authority. `missing` takes the services that are not there.
pub(crate) async fn locate(
    resolver: &dyn Resolver,
    authority: &ServerName,
    ports: Ports,
    missing: &mut Vec<DnsError>,
) -> Result<Located, DnsError> {
    let host = authority.host();
    if let Some(address) = literal(host) {
        let port = authority.port().unwrap_or(ports.federation);
        let candidates = vec![SocketAddr::new(address, port)];
        return Ok(Located { rule: Rule::Literal, candidates });
    }
    if let Some(port) = authority.port() {
        return by_name(resolver, host, port, Rule::Port).await;
    }
    for service in SERVICES {
        let name = format!("{service}.{host}");
        match by_service(resolver, &name).await? {
            Ok(located) => return Ok(located),
            Err(error) => missing.push(error),
        }
    }
    by_name(resolver, host, ports.federation, Rule::Default).await
}

/// The address that a host is, in the brackets of version 6 or without.
pub(crate) fn literal(host: &str) -> Option<std::net::IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

pub(crate) async fn by_name(
    resolver: &dyn Resolver,
    host: &str,
    port: u16,
    rule: Rule,
) -> Result<Located, DnsError> {
    let addresses = resolver.addresses(host).await?;
    let candidates = addresses.into_iter().map(|address| SocketAddr::new(address, port));
    let candidates: Vec<_> = candidates.take(MAX_CANDIDATES).collect();
    if candidates.is_empty() {
        return Err(DnsError::NoRecords(host.to_owned()));
    }
    Ok(Located { rule, candidates })
}

/// The addresses of a service; the inner error if there is no such service.
async fn by_service(
    resolver: &dyn Resolver,
    name: &str,
) -> Result<Result<Located, DnsError>, DnsError> {
    let services = match resolver.services(name).await {
        Ok(services) if services.is_empty() => {
            return Ok(Err(DnsError::NoRecords(name.to_owned())));
        }
        Ok(services) => srv::order(services, &mut rand::rng()),
        // Some name servers fail on types of records that they do not know.
        Err(error) => return Ok(Err(error)),
    };
    let mut candidates = Vec::new();
    let mut last_error = DnsError::NoRecords(name.to_owned());
    for service in services.iter().filter(|service| !service.target.is_empty()) {
        match resolver.addresses(&service.target).await {
            Ok(addresses) => {
                let here = addresses.into_iter().map(|ip| SocketAddr::new(ip, service.port));
                candidates.extend(here);
            }
            Err(error) => last_error = error,
        }
        if candidates.len() >= MAX_CANDIDATES {
            break;
        }
    }
    candidates.truncate(MAX_CANDIDATES);
    if candidates.is_empty() {
        return Err(last_error);
    }
    Ok(Ok(Located { rule: Rule::Service(name.to_owned()), candidates }))
}
