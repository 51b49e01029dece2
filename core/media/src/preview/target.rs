//! Which URLs previews are made of. What is behind a name is judged later, where it is connected to.

use url::{Host, Url};

use super::PreviewConfig;

/// The longest URL that is looked at.
const MAX_URL_BYTES: usize = 4_096;

/// A URL that may be asked for, as far as its text tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target(Url);

impl Target {
    /// Reads what a user wrote. The error says why there is no preview.
    pub(crate) fn parse(text: &str, config: &PreviewConfig) -> Result<Self, &'static str> {
        if text.len() > MAX_URL_BYTES {
            return Err("The URL is too long");
        }
        Self::allowed(Url::parse(text).map_err(|_| "This is no URL")?, config)
    }

    /// Where a page that was found here refers to.
    pub(crate) fn join(&self, text: &str, config: &PreviewConfig) -> Result<Self, &'static str> {
        if text.len() > MAX_URL_BYTES {
            return Err("The URL is too long");
        }
        Self::allowed(self.0.join(text).map_err(|_| "This is no URL")?, config)
    }

    /// The URL, in the one form that it has.
    pub(crate) fn url(&self) -> &Url {
        &self.0
    }

    fn allowed(mut url: Url, config: &PreviewConfig) -> Result<Self, &'static str> {
        url.set_fragment(None);
        if !matches!(url.scheme(), "http" | "https") {
            return Err("Previews are made of pages of the web only");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("No previews are made of URLs with a user or password");
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if !config.ports.contains(&port) {
            return Err("No previews are made of pages at this port");
        }
        match url.host() {
            None => return Err("The URL names no host"),
            Some(Host::Domain(domain)) if !is_plain(domain) => return Err("This is no host"),
            Some(host) if !is_listed(&host, config) => {
                return Err("No previews are made of pages of this domain");
            }
            Some(_) => {}
        }
        if url.as_str().len() > MAX_URL_BYTES {
            return Err("The URL is too long");
        }
        Ok(Self(url))
    }
}

/// A name in the form that certificates and lists have it in: without a dot at its end.
fn is_plain(domain: &str) -> bool {
    !domain.is_empty() && !domain.ends_with('.')
}

fn is_listed(host: &Host<&str>, config: &PreviewConfig) -> bool {
    let in_any = |domains: &[String]| match host {
        Host::Domain(host) => domains.iter().any(|domain| is_within(host, domain)),
        Host::Ipv4(_) | Host::Ipv6(_) => false,
    };
    let allowed = config.allow_domains.is_empty() || in_any(&config.allow_domains);
    allowed && !in_any(&config.deny_domains)
}

/// Is the host this domain, or below it?
fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, &'static str> {
        parse_with(text, &PreviewConfig::default())
    }

    fn parse_with(text: &str, config: &PreviewConfig) -> Result<String, &'static str> {
        Target::parse(text, config).map(|target| target.url().to_string())
    }

    #[test]
    fn pages_of_the_web_have_one_form_each() {
        let cases = [
            ("https://Example.ORG", "https://example.org/"),
            ("HTTP://example.org:80/a b#part", "http://example.org/a%20b"),
            ("https://example.org:443/?q=1", "https://example.org/?q=1"),
            ("https://münchen.example/", "https://xn--mnchen-3ya.example/"),
            ("https://[2600::1]/", "https://[2600::1]/"),
            // All of these are one address, and are judged as it is.
            ("http://2130706433/", "http://127.0.0.1/"),
            ("http://0x7f.1/", "http://127.0.0.1/"),
            ("http://0177.0.0.01/", "http://127.0.0.1/"),
            ("http://127.1/", "http://127.0.0.1/"),
            ("http://127.0.0.1./", "http://127.0.0.1/"),
            ("http://１２７.０.０.１/", "http://127.0.0.1/"),
        ];
        for (text, form) in cases {
            assert_eq!(parse(text).as_deref(), Ok(form), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = format!("https://example.org/{}", "a".repeat(MAX_URL_BYTES));
        let grows = format!("https://example.org/{}", "ä".repeat(MAX_URL_BYTES / 3));
        for text in [
            "",
            "example.org",
            "//example.org/",
            "ftp://example.org/",
            "file:///etc/passwd",
            "gopher://example.org:80/",
            "javascript:alert(1)",
            "data:text/html,hello",
            "mxc://example.org/abc",
            "https://",
            "https:///",
            "https://user@example.org/",
            "https://user:pass@example.org/",
            "https://:pass@example.org/",
            "https://example.org:22/",
            "https://example.org:8448/",
            "https://example.org:0/",
            "https://example.org./",
            "https://localhost./",
            "https://[fe80::1%25eth0]/",
            "https://[::1/",
            "https://exa mple.org/",
            "https://1.2.3.4.5/",
            &long,
            &grows,
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_page_leads_only_where_a_user_may_ask() {
        let config = PreviewConfig::default();
        let page = Target::parse("https://example.org/a/b?c", &config).unwrap();
        let join = |text: &str| page.join(text, &config).map(|to| to.url().to_string());
        assert_eq!(join("../d").as_deref(), Ok("https://example.org/d"));
        assert_eq!(join("//b.example/e").as_deref(), Ok("https://b.example/e"));
        assert_eq!(join("http://b.example").as_deref(), Ok("http://b.example/"));
        for text in ["file:///etc/passwd", "//a@b/", "https://b.example:22/", "data:,x"] {
            assert!(join(text).is_err(), "{text}");
        }
    }

    #[test]
    fn domains_are_allowed_and_denied_with_what_is_below_them() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let config = PreviewConfig {
            allow_domains: names(&["example.org", "b.example"]),
            deny_domains: names(&["intern.example.org"]),
            ..PreviewConfig::default()
        };
        let allowed = |host: &str| parse_with(&format!("https://{host}/"), &config).is_ok();
        for host in ["example.org", "a.example.org", "B.Example", "xintern.example.org"] {
            assert!(allowed(host), "{host}");
        }
        for host in
            ["anexample.org", "org", "intern.example.org", "x.intern.example.org", "1.1.1.1"]
        {
            assert!(!allowed(host), "{host}");
        }
    }

    #[test]
    fn ports_can_be_set() {
        let config = PreviewConfig { ports: vec![443, 8443], ..PreviewConfig::default() };
        assert!(parse_with("https://example.org:8443/", &config).is_ok());
        assert!(parse_with("http://example.org:443/", &config).is_ok());
        assert!(parse_with("http://example.org/", &config).is_err());
    }
}
