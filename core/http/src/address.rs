//! Where a request comes from.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use http::HeaderMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A range of addresses: `10.0.0.0/8`, `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

/// Text that is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address or a network such as 10.0.0.0/8")]
pub struct NetworkError;

impl Network {
    /// Is the address in this range?
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (width, own, other) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (32, u128::from(own.to_bits()), u128::from(other.to_bits()))
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (128, own.to_bits(), other.to_bits()),
            _ => return false,
        };
        let host_bits = width - u32::from(self.prefix_bits);
        // A shift by the whole width (prefix 0 of IPv6) leaves nothing to differ.
        (own ^ other).checked_shr(host_bits).is_none_or(|differing| differing == 0)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix_bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix_bits {
            Some(bits) => bits.parse().map_err(|_| NetworkError)?,
            None => width,
        };
        if prefix_bits > width { Err(NetworkError) } else { Ok(Self { address, prefix_bits }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The client's address: the peer's own, or, if the peer is a trusted proxy, the last address that
/// `X-Forwarded-For` names and that is not a trusted proxy itself. What stands before it is the
/// client's own word and proves nothing.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut nearest = peer.to_canonical();
    let lines = headers.get_all("x-forwarded-for").into_iter().rev();
    let hops = lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
    for hop in hops {
        if !is_trusted(nearest) {
            break;
        }
        let Some(address) = hop_address(hop.trim()) else { break };
        nearest = address;
    }
    nearest
}

/// Proxies write addresses with and without ports.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let address: Option<IpAddr> = hop.parse().ok();
    let address = address.or_else(|| hop.parse().ok().map(|hop: SocketAddr| hop.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn client(peer: &str, forwarded: &[&'static str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_static(line));
        }
        client_address(peer.parse().unwrap(), &headers, &networks(trusted)).to_string()
    }

    #[test]
    fn networks_contain_their_addresses() {
        let within = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(within("10.0.0.0/8", "10.255.1.2"));
        assert!(!within("10.0.0.0/8", "11.0.0.1"));
        assert!(within("127.0.0.1", "127.0.0.1"));
        assert!(!within("127.0.0.1", "127.0.0.2"));
        assert!(within("0.0.0.0/0", "1.2.3.4"));
        assert!(within("::/0", "2001:db8::1"));
        assert!(!within("::/0", "1.2.3.4"));
        assert!(within("2001:db8::/32", "2001:db8:1::1"));
        assert!(!within("2001:db8::/32", "2001:db9::1"));
    }

    #[test]
    fn what_is_not_a_network_is_refused() {
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "1.2.3.4/x", "example.org"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(client("1.1.1.1", &["9.9.9.9"], &[]), "1.1.1.1");
        assert_eq!(client("1.1.1.1", &["9.9.9.9"], &["1.1.1.1"]), "9.9.9.9");
        // The client wrote the first address itself.
        assert_eq!(client("1.1.1.1", &["6.6.6.6, 9.9.9.9"], &["1.1.1.1"]), "9.9.9.9");
        assert_eq!(client("::1", &["9.9.9.9, 10.0.0.7"], &["::1", "10.0.0.0/8"]), "9.9.9.9");
        assert_eq!(client("::1", &["9.9.9.9", "10.0.0.7"], &["::1", "10.0.0.0/8"]), "9.9.9.9");
    }

    #[test]
    fn odd_headers_fall_back_to_the_nearest_address_known() {
        assert_eq!(client("1.1.1.1", &["nonsense"], &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(client("1.1.1.1", &["9.9.9.9:1234"], &["1.1.1.1"]), "9.9.9.9");
        assert_eq!(client("1.1.1.1", &["[2001:db8::1]:1"], &["1.1.1.1"]), "2001:db8::1");
        assert_eq!(client("::ffff:1.1.1.1", &["9.9.9.9"], &["1.1.1.1"]), "9.9.9.9");
    }
}
