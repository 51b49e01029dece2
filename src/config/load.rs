//! Defaults, then the file, then the environment, then checks.

use std::path::Path;

use toml::{Table, Value};

use super::{
    Config, ConfigError, ListenConfig,
    error::UnknownKey,
    fields::{self, Kind},
    nearest::nearest,
};

/// Environment variables of this form override settings: `HEARTH_SECTION__NAME`.
const PREFIX: &str = "HEARTH_";

/// Reads the configuration: the file if there is one, then overrides of the form
/// `HEARTH_SECTION__NAME` from these environment variables. Relative paths are taken from the file's
/// folder. The result is validated.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut table = Table::new();
    let mut origin = "environment".to_owned();
    if let Some(path) = file {
        origin = path.display().to_string();
        table = read(path)?;
    }
    if overlay(&mut table, environment)? && file.is_some() {
        origin.push_str(" with the environment");
    }
    let mut config = from_table(table, &origin)?;
    if let Some(folder) = file.and_then(Path::parent) {
        config.server.data_dir = folder.join(&config.server.data_dir);
        let ListenConfig { tls_certificate, tls_key, .. } = &mut config.listen;
        let authorities = &mut config.federation.ca_files;
        for path in authorities.iter_mut().chain(tls_certificate).chain(tls_key) {
            *path = folder.join(&path);
        }
    }
    config.validate()?;
    Ok(config)
}

/// The settings of a table over the defaults, which may complete a value in part.
fn from_table(table: Table, origin: &str) -> Result<Config, ConfigError> {
    let malformed = |reason: String| ConfigError::Malformed {
        origin: origin.to_owned(),
        reason: reason.trim_end().to_owned(),
    };
    let mut settings =
        Table::try_from(Config::default()).map_err(|error| malformed(error.to_string()))?;
    merge(&mut settings, table);
    Value::Table(settings).try_into().map_err(|error: toml::de::Error| malformed(error.to_string()))
}

fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// The file's settings, all of which exist.
fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
    let origin = path.display().to_string();
    let table: Table = toml::from_str(&text).map_err(|error| ConfigError::Malformed {
        origin: origin.clone(),
        reason: error.to_string().trim_end().to_owned(),
    })?;
    let mut unknown = Vec::new();
    for (key, value) in &table {
        find_unknown(key, value, &mut unknown);
    }
    if unknown.is_empty() {
        return Ok(table);
    }
    let unknown = unknown.into_iter().map(|key| UnknownKey {
        nearest: nearest(&key),
        key,
        origin: origin.clone(),
    });
    Err(ConfigError::Unknown(unknown.collect()))
}

/// Collects the keys at and below this one that are no settings.
fn find_unknown(key: &str, value: &Value, unknown: &mut Vec<String>) {
    if fields::find(key).is_some() {
        return; // The value's type is the deserializer's business.
    }
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (name, value) in table {
                find_unknown(&format!("{key}.{name}"), value, unknown);
            }
        }
        // An empty section is no mistake.
        Value::Table(_) if fields::SECTIONS.iter().any(|section| section.name == key) => {}
        _ => unknown.push(key.to_owned()),
    }
}

/// Puts the environment's settings over the file's. Were there any?
fn overlay(
    table: &mut Table,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<bool, ConfigError> {
    let mut overridden = false;
    for (variable, text) in environment {
        let Some(path) = variable.strip_prefix(PREFIX).filter(|path| path.contains("__")) else {
            continue;
        };
        let key = path.to_lowercase().replace("__", ".");
        let Some(field) = fields::find(&key) else {
            let unknown = UnknownKey { nearest: nearest(&key), key, origin: variable };
            return Err(ConfigError::Unknown(vec![unknown]));
        };
        let value = parse(field.kind, &text).map_err(|reason| ConfigError::Malformed {
            origin: variable,
            reason: format!("{key}: {reason}"),
        })?;
        // The one-setting table of this key, from the inside out.
        let setting = key
            .rsplit('.')
            .fold(value, |value, name| Value::Table(Table::from_iter([(name.to_owned(), value)])));
        if let Value::Table(setting) = setting {
            merge(table, setting);
            overridden = true;
        }
    }
    Ok(overridden)
}

/// A value as the environment has it: texts bare, lists with commas or as in TOML, the rest as in TOML.
fn parse(kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Text | Kind::OneOf(_) => Ok(Value::String(text.to_owned())),
        Kind::TextList if !text.trim_start().starts_with('[') => Ok(Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| Value::String(part.to_owned()))
                .collect(),
        )),
        Kind::IntegerList if !text.trim_start().starts_with('[') => {
            parse(kind, &format!("[{text}]"))
        }
        // The text itself may be a secret in the wrong place: it is not repeated.
        _ => toml::from_str::<Table>(&format!("value = {text}"))
            .ok()
            .and_then(|mut document| document.remove("value"))
            .ok_or_else(|| format!("expected a {}", kind.name())),
    }
}
