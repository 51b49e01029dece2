//! How a server is reached, told to an operator step by step: its name, whom it delegates to, where that
//! is, what it shows there, its keys and its version. Each step goes by the code that every request
//! takes, and the first that fails ends it.

mod answers;
mod certificate;
mod connections;

use ruma::{OwnedServerName, ServerName};
use std::{net::SocketAddr, time::Duration};

use hearth_types::Clock;

use crate::{
    FederationConfig,
    discovery::{
        dns::DnsError,
        locate::{Rule, literal},
        well_known::Answer,
    },
    transport::{HttpTransport, connect::Purpose},
};

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A step begins.
    Step(String),
    /// This is as it should be.
    Good(String),
    /// This is neither good nor bad.
    Note(String),
    /// This does not work, but the rest may.
    Warning(String),
    /// This does not work: the server cannot be reached.
    Bad(String),
}

/// What has been told already ends it.
struct Failed;

/// One server under examination.
struct Examination<'a> {
    transport: &'a HttpTransport,
    config: &'a FederationConfig,
    clock: &'a dyn Clock,
    server: &'a ServerName,
    tell: &'a mut (dyn FnMut(Finding) + Send),
}

/// Goes the way that a request to this server goes, and tells each step as it is taken. Whether the
/// server can be reached. The transport should be new: what one remembers is not asked for again.
pub async fn diagnose(
    transport: &HttpTransport,
    config: &FederationConfig,
    clock: &dyn Clock,
    server: &ServerName,
    tell: &mut (dyn FnMut(Finding) + Send),
) -> bool {
    let mut examination = Examination { transport, config, clock, server, tell };
    examination.run().await.is_ok()
}

impl Examination<'_> {
    async fn run(&mut self) -> Result<(), Failed> {
        let delegates = self.name()?;
        let authority = if delegates { self.delegation().await } else { self.server.to_owned() };
        let addresses = self.addresses(&authority).await?;
        self.connections(&authority, addresses).await?;
        self.keys().await?;
        self.version().await
    }

    fn step(&mut self, text: impl Into<String>) {
        self.tell(Finding::Step, text.into());
    }

    fn good(&mut self, text: impl Into<String>) {
        self.tell(Finding::Good, text.into());
    }

    fn note(&mut self, text: impl Into<String>) {
        self.tell(Finding::Note, text.into());
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.tell(Finding::Warning, text.into());
    }

    fn bad(&mut self, text: impl Into<String>) -> Failed {
        self.tell(Finding::Bad, text.into());
        Failed
    }

    /// Strangers' words must not play tricks on a terminal.
    fn tell(&mut self, finding: fn(String) -> Finding, mut text: String) {
        text.retain(|next| !next.is_control());
        (self.tell)(finding(text));
    }

    /// What the name itself says. May it delegate to another?
    fn name(&mut self) -> Result<bool, Failed> {
        let server = self.server;
        self.step(format!("The name {server}"));
        if !self.config.admits(server) {
            let why = "federation.allow and federation.deny of the configuration rule it out";
            return Err(self.bad(why));
        }
        if literal(server.host()).is_some() {
            self.good("an address: it is connected to as it is");
            return Ok(false);
        }
        if let Some(port) = server.port() {
            self.good(format!(
                "a name with a port: port {port} of its addresses, and no other rule"
            ));
            return Ok(false);
        }
        self.good("a name without a port: its web server may say where else it is");
        Ok(true)
    }

    /// The name that requests go to in place of the server's own.
    async fn delegation(&mut self) -> OwnedServerName {
        let server = self.server;
        self.step(format!("https://{server}/.well-known/matrix/server"));
        let mut hops = Vec::new();
        let answer = self.transport.ask_well_known(server, &mut hops).await;
        for hop in hops {
            self.note(format!("redirects to {hop}"));
        }
        match answer {
            Answer::Delegated(name, age) => {
                self.good(format!("delegates to {name}; good for {}", duration(age)));
                return name;
            }
            Answer::None(why) => self.note(format!("delegates to nobody: {why}")),
            Answer::Failed(why) => self.warn(format!("cannot be had: {why}")),
        }
        self.note(format!("so the rules are applied to {server} itself"));
        server.to_owned()
    }

    /// The addresses that may be connected to.
    async fn addresses(&mut self, authority: &ServerName) -> Result<Vec<SocketAddr>, Failed> {
        self.step(format!("Where {authority} is"));
        let network = self.transport.network();
        let mut missing = Vec::new();
        let located = network.locate(authority, Purpose::Federation, &mut missing).await;
        for error in &missing {
            self.note(match error {
                DnsError::NoRecords(name) => format!("there is no SRV record {name}"),
                DnsError::Failed { .. } => format!("{error}: taken for no SRV record"),
            });
        }
        let located = match located {
            Ok(located) => located,
            Err(DnsError::NoRecords(name)) => {
                return Err(self.bad(format!("{name} has no address: no A and no AAAA record")));
            }
            Err(error) => return Err(self.bad(error.to_string())),
        };
        self.good(match &located.rule {
            Rule::Literal => "the name is an address".to_owned(),
            Rule::Port => "the name has a port, so its own addresses are used".to_owned(),
            Rule::Service(name) => format!("the SRV record {name} names the machines"),
            Rule::Default => format!("the default port, {}", network.ports.federation),
        });
        let mut allowed = Vec::new();
        for address in located.candidates {
            match network.guard.check(address.ip()) {
                Ok(()) => {
                    self.good(address.to_string());
                    allowed.push(address);
                }
                Err(why) => self.warn(why.to_string()),
            }
        }
        if allowed.is_empty() {
            return Err(self.bad("no address is left that requests may go to"));
        }
        Ok(allowed)
    }
}

/// A length of time, for people: in the largest unit that it fills twice.
#[must_use]
pub fn duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let seconds = duration.as_secs();
    let unit = UNITS.into_iter().find(|(length, _)| seconds >= 2 * length);
    let (length, unit) = unit.unwrap_or((1, "second"));
    let count = seconds / length;
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// A time as HTTP writes it.
fn date(ms: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    // Later ones have no four-digit year, and nobody means them.
    match time {
        Some(time) if ms < 253_402_300_800_000 => httpdate::fmt_http_date(time),
        _ => "the end of time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_told_in_one_unit() {
        let told = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(told(0), "0 seconds");
        assert_eq!(told(1), "1 second");
        assert_eq!(told(90), "90 seconds");
        assert_eq!(told(300), "5 minutes");
        assert_eq!(told(86_400), "24 hours");
        assert_eq!(told(71 * 86_400 + 5), "71 days");
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(u64::MAX), "the end of time");
        assert_eq!(date(253_402_300_800_000), "the end of time");
    }
}
