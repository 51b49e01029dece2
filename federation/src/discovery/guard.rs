//! Which addresses requests may go to: those of the public Internet, and what the operator allows.
//!
//! Whoever names a server decides where this one connects to. Without this guard, a stranger could have it
//! speak to services inside the operator's network.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Lets addresses pass or not.
#[derive(Clone, Debug)]
pub struct AddressGuard {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    setting: &'static str,
}

impl Default for AddressGuard {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// An address that requests may not go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {what}, and not in {setting}")]
pub struct ForbiddenAddress {
    address: IpAddr,
    what: Kind,
    setting: &'static str,
}

/// Why an address is not one of the public Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind(&'static str);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const fn v4(a: u8, b: u8, c: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), length)
}

const fn v6(first: u16, second: u16, third: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0), length)
}

/// Networks of version 4 that are not public (IANA's special-purpose registry, RFC 6890).
const SPECIAL_V4: [(Ipv4Net, &str); 15] = [
    (v4(0, 0, 0, 8), "unspecified"),
    (v4(10, 0, 0, 8), "private"),
    (v4(100, 64, 0, 10), "shared between a provider's customers"),
    (v4(127, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 16), "link-local"),
    (v4(172, 16, 0, 12), "private"),
    (v4(192, 0, 0, 24), "reserved for protocols"),
    (v4(192, 0, 2, 24), "for documentation"),
    (v4(192, 88, 99, 24), "a relay of 6to4"),
    (v4(192, 168, 0, 16), "private"),
    (v4(198, 18, 0, 15), "for benchmarks"),
    (v4(198, 51, 100, 24), "for documentation"),
    (v4(203, 0, 113, 24), "for documentation"),
    (v4(224, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 4), "reserved"),
];

/// The part of version 6 that is given out as public (RFC 4291); everything else is special.
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Networks inside of [`GLOBAL_UNICAST`] that are not public either.
const SPECIAL_V6: [(Ipv6Net, &str); 3] = [
    (v6(0x2001, 0, 0, 23), "reserved for protocols"), // Teredo, ORCHID and benchmarks among them.
    (v6(0x2001, 0xdb8, 0, 32), "for documentation"),
    (v6(0x3fff, 0, 0, 20), "for documentation"),
];

/// Prefixes of version 6 that lead to an address of version 4, and the segment that it begins with.
const TRANSLATED: [(Ipv6Net, usize); 4] = [
    (Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96), 6), // Mapped.
    (Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96), 6), // SIIT, RFC 2765.
    (v6(0x64, 0xff9b, 0, 96), 6),                                             // NAT64, RFC 6052.
    (v6(0x2002, 0, 0, 16), 1),                                                // 6to4, RFC 3056.
];

impl AddressGuard {
    /// A guard that also lets pass what is in these networks.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self::of_setting(allowed, "federation.allow_networks")
    }

    /// The same by another setting of the configuration, which refusals name.
    #[must_use]
    pub fn of_setting(allowed: Vec<IpNet>, setting: &'static str) -> Self {
        Self { allowed, denied: Vec::new(), setting }
    }

    /// The same, but nothing passes that is in these networks, be it public or allowed.
    #[must_use]
    pub fn denying(self, denied: Vec<IpNet>) -> Self {
        Self { denied, ..self }
    }

    /// May requests go there?
    pub fn check(&self, address: IpAddr) -> Result<(), ForbiddenAddress> {
        let inner = translated(address);
        let listed = |networks: &[IpNet]| {
            let holds = |address: &IpAddr| networks.iter().any(|network| network.contains(address));
            holds(&address) || inner.as_ref().is_some_and(holds)
        };
        let forbidden =
            |what| ForbiddenAddress { address, what: Kind(what), setting: self.setting };
        if listed(&self.denied) {
            return Err(forbidden("denied by the configuration"));
        }
        match special(inner.unwrap_or(address)) {
            Some(what) if !listed(&self.allowed) => Err(forbidden(what)),
            _ => Ok(()),
        }
    }
}

/// The address of version 4 that one of version 6 leads to.
fn translated(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let (_, start) = TRANSLATED.iter().find(|(network, _)| network.contains(&address))?;
    let segments = address.segments();
    let bits = u32::from(*segments.get(*start)?) << 16 | u32::from(*segments.get(start + 1)?);
    Some(Ipv4Addr::from_bits(bits).into())
}

/// What an address is, if it is not public.
fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => named(&SPECIAL_V4, |network| network.contains(&address)),
        IpAddr::V6(address) if GLOBAL_UNICAST.contains(&address) => {
            named(&SPECIAL_V6, |network| network.contains(&address))
        }
        IpAddr::V6(address) if address.is_loopback() => Some("loopback"),
        IpAddr::V6(address) if address.is_multicast() => Some("multicast"),
        IpAddr::V6(address) if address.is_unique_local() => Some("private"),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some("link-local"),
        IpAddr::V6(_) => Some("not global unicast"),
    }
}

fn named<N>(table: &[(N, &'static str)], holds: impl Fn(&N) -> bool) -> Option<&'static str> {
    table.iter().find_map(|(network, what)| holds(network).then_some(*what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(guard: &AddressGuard, address: &str) -> bool {
        guard.check(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn public_addresses_pass() {
        let guard = AddressGuard::default();
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "198.17.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "2600::1",
            "2a00:1450:4001:830::200e",
            "2001:4860:4860::8888",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:0101:0101::1",
        ] {
            assert!(passes(&guard, address), "{address}");
        }
    }

    #[test]
    fn special_addresses_do_not() {
        let guard = AddressGuard::default();
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "::7f00:1",           // IPv4-compatible loopback.
            "::ffff:127.0.0.1",   // Mapped.
            "::ffff:10.0.0.1",    // Mapped.
            "::ffff:0:127.0.0.1", // Translated.
            "64:ff9b::127.0.0.1", // NAT64.
            "64:ff9b::a9fe:a9fe", // NAT64 of the metadata service.
            "64:ff9b:1::1",       // Local NAT64.
            "2002:7f00:1::1",     // 6to4 of 127.0.0.1.
            "2002:c0a8:101::",    // 6to4 of 192.168.1.1.
            "100::1",
            "2001::1",     // Teredo.
            "2001:2::1",   // Benchmarks.
            "2001:10::1",  // ORCHID.
            "2001:20::1",  // ORCHIDv2.
            "2001:db8::1", // Documentation.
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456:789a::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!passes(&guard, address), "{address}");
        }
    }

    #[test]
    fn the_operator_may_allow_networks() {
        let guard =
            AddressGuard::new(vec!["127.0.0.0/8".parse().unwrap(), "fd00:1::/32".parse().unwrap()]);
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "fd00:1::7"] {
            assert!(passes(&guard, address), "{address}");
        }
        for address in ["10.0.0.1", "::1", "fd00:2::7", "::ffff:10.0.0.1"] {
            assert!(!passes(&guard, address), "{address}");
        }
    }

    #[test]
    fn the_operator_may_deny_networks() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let guard = AddressGuard::new(networks(&["10.0.0.0/8"])).denying(networks(&[
            "10.1.0.0/16",
            "1.1.1.0/24",
            "2600::/16",
        ]));
        for address in ["10.0.0.1", "1.1.2.1", "2a00::1"] {
            assert!(passes(&guard, address), "{address}");
        }
        for address in ["10.1.0.1", "1.1.1.1", "2600::1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"] {
            assert!(!passes(&guard, address), "{address}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_address_is() {
        let error = AddressGuard::default().check([127, 0, 0, 1].into()).unwrap_err().to_string();
        assert_eq!(error, "127.0.0.1 is loopback, and not in federation.allow_networks");
    }
}
