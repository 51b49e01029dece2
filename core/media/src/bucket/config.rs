//! The section `[media.bucket]`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The bucket that content is kept in, if it is not in a folder of this machine.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct BucketConfig {
    /// Its name; unset: content is kept in a folder.
    pub name: Option<String>,
    /// Where it is: the URL of the service; unset: Amazon's in the region.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// The public half of the credentials.
    pub access_key_id: Option<String>,
    /// The secret half of the credentials.
    pub secret_access_key: Option<String>,
    /// What stands before every object's name.
    pub prefix: String,
    /// Is the bucket's name part of the path, and not of the host?
    pub path_style: bool,
}

impl Default for BucketConfig {
    fn default() -> Self {
        Self {
            name: None,
            endpoint: None,
            region: "us-east-1".to_owned(),
            access_key_id: None,
            secret_access_key: None,
            prefix: String::new(),
            path_style: true,
        }
    }
}

/// Shows no credentials.
impl fmt::Debug for BucketConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketConfig")
            .field("name", &self.name)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("prefix", &self.prefix)
            .field("path_style", &self.path_style)
            .finish_non_exhaustive()
    }
}

impl BucketConfig {
    /// Names the first field whose value cannot be used.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let is_empty = |value: &Option<String>| value.as_ref().is_none_or(String::is_empty);
        if self.name.is_none() {
            return Ok(());
        }
        let needed = [
            ("name", &self.name),
            ("access_key_id", &self.access_key_id),
            ("secret_access_key", &self.secret_access_key),
        ];
        if let Some((name, _)) = needed.iter().find(|(_, value)| is_empty(value)) {
            return Err(format!("media.bucket.{name}: a bucket needs this"));
        }
        if let Some(endpoint) = &self.endpoint
            && !url::Url::parse(endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
        {
            return Err("media.bucket.endpoint: must be a URL of http or https".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> BucketConfig {
        let text = |text: &str| Some(text.to_owned());
        BucketConfig {
            name: text("hearth"),
            endpoint: text("https://s3.example.org"),
            access_key_id: text("key"),
            secret_access_key: text("swordfish"),
            ..BucketConfig::default()
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        BucketConfig::default().validate().unwrap();
        usable().validate().unwrap();
        let error = |config: BucketConfig| config.validate().unwrap_err();
        let config = BucketConfig { secret_access_key: None, ..usable() };
        assert!(error(config).starts_with("media.bucket.secret_access_key:"));
        let config = BucketConfig { access_key_id: Some(String::new()), ..usable() };
        assert!(error(config).starts_with("media.bucket.access_key_id:"));
        let config = BucketConfig { endpoint: Some("s3.example.org".to_owned()), ..usable() };
        assert!(error(config).starts_with("media.bucket.endpoint:"));
    }

    #[test]
    fn credentials_are_not_shown() {
        assert!(!format!("{:?}", usable()).contains("swordfish"));
    }
}
