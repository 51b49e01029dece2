//! File, then environment, then checks.

use std::path::Path;

use serde_json::Value as Json;
use toml::{Table, Value};

use super::{
    Config, ConfigError,
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
    let mut table = match file {
        Some(path) => read(path)?,
        None => Table::new(),
    };
    let overridden = overlay(&mut table, environment)?;
    let mut config: Config = Value::Table(table).try_into().map_err(|error: toml::de::Error| {
        let origin = match (file, overridden) {
            (Some(path), false) => path.display().to_string(),
            (Some(path), true) => format!("{} with the environment", path.display()),
            (None, _) => "environment".to_owned(),
        };
        ConfigError::Malformed { origin, reason: error.to_string().trim_end().to_owned() }
    })?;
    if let Some(folder) = file.and_then(Path::parent) {
        config.server.data_dir = folder.join(&config.server.data_dir);
    }
    config.validate()?;
    Ok(config)
}

/// The file's settings, all of which exist and have the right type.
fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
    let malformed = |error: toml::de::Error| ConfigError::Malformed {
        origin: path.display().to_string(),
        reason: error.to_string().trim_end().to_owned(),
    };
    let table: Table = toml::from_str(&text).map_err(malformed)?;
    let mut unknown = Vec::new();
    for (key, value) in &table {
        find_unknown(key, value, &mut unknown);
    }
    if !unknown.is_empty() {
        let origin = path.display().to_string();
        return Err(ConfigError::Unknown(
            unknown
                .into_iter()
                .map(|key| UnknownKey { nearest: nearest(&key), key, origin: origin.clone() })
                .collect(),
        ));
    }
    // Read from the text once more for the sake of its errors: these show the line.
    toml::from_str::<Config>(&text).map_err(malformed)?;
    Ok(table)
}

/// Collects the keys at and below this one that are no settings.
fn find_unknown(key: &str, value: &Value, unknown: &mut Vec<String>) {
    if fields::all().any(|field| field.key == key) {
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
        let Some((section, name)) =
            variable.strip_prefix(PREFIX).and_then(|rest| rest.split_once("__"))
        else {
            continue;
        };
        let (section, name) = (section.to_lowercase(), name.to_lowercase());
        let key = format!("{section}.{name}");
        let Some(field) = fields::all().find(|field| field.key == key) else {
            let unknown = UnknownKey { nearest: nearest(&key), key, origin: variable };
            return Err(ConfigError::Unknown(vec![unknown]));
        };
        let value = parse(field.kind, &text).map_err(|reason| ConfigError::Malformed {
            origin: variable,
            reason: format!("`{key}`: {reason}"),
        })?;
        let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(name, value);
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
        Kind::Integer | Kind::Number | Kind::Boolean | Kind::TextList => {
            let document: Table = toml::from_str(&format!("value = {text}"))
                .map_err(|_| format!("{text:?} is not {}", super::render::kind_name(kind)))?;
            document.get("value").cloned().ok_or_else(|| "no value".to_owned())
        }
    }
}

/// The keys of all settings that the types have, from the default configuration. JSON, unlike TOML,
/// shows settings that are unset.
#[must_use]
pub fn keys_of_types(config: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    if let Ok(Json::Object(sections)) = serde_json::to_value(config) {
        for (section, fields) in sections {
            if let Json::Object(fields) = fields {
                keys.extend(fields.keys().map(|name| format!("{section}.{name}")));
            }
        }
    }
    keys
}
