use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value as Json;

use super::{fields::Kind, *};

fn load_text(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hearth.toml");
    fs::write(&path, text).unwrap();
    load(Some(&path), [])
}

fn load_env(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load(None, variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn uncommented(example: &str) -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => setting.to_owned(),
        _ => line.to_owned(),
    };
    example.lines().map(|line| uncomment(line) + "\n").collect()
}

fn keys_of_table() -> BTreeSet<String> {
    fields::all().map(|field| field.key.to_owned()).collect()
}

/// The keys of the settings that the types have. JSON, unlike TOML, shows those that are unset.
fn keys_of_types(key: &str, value: &Json, keys: &mut BTreeSet<String>) {
    let is_rate = fields::find(key).is_some_and(|field| field.kind == Kind::Rate);
    match value {
        Json::Object(fields) if !is_rate => {
            for (name, value) in fields {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                keys_of_types(&key, value, keys);
            }
        }
        _ => {
            keys.insert(key.to_owned());
        }
    }
}

fn keys_of(config: &Config) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    keys_of_types("", &serde_json::to_value(config).unwrap(), &mut keys);
    keys
}

#[test]
fn the_table_has_exactly_the_settings_of_the_types() {
    assert_eq!(keys_of_table(), keys_of(&Config::default()));
    for section in fields::SECTIONS {
        for field in section.fields {
            assert_eq!(field.key.rsplit_once('.').unwrap().0, section.name, "{}", field.key);
        }
    }
}

#[test]
fn the_example_sets_nothing() {
    let example = load_text(&render::example()).unwrap();
    let mut defaults = Config::default();
    defaults.server.data_dir.clone_from(&example.server.data_dir); // Made absolute.
    assert_eq!(serde_json::to_value(&example).unwrap(), serde_json::to_value(&defaults).unwrap());
}

#[test]
fn the_uncommented_example_sets_every_setting_to_its_default() {
    let text = uncommented(&render::example());
    let written: Json =
        serde_json::to_value(toml::from_str::<toml::Table>(&text).unwrap()).unwrap();
    let mut keys = BTreeSet::new();
    keys_of_types("", &written, &mut keys);
    assert_eq!(keys, keys_of_table());

    // Every value shown has the right type and passes the checks; the shown defaults are the defaults.
    let read = serde_json::to_value(load_text(&text).unwrap()).unwrap();
    let defaults = serde_json::to_value(Config::default()).unwrap();
    for field in fields::all().filter(|field| field.key != "server.data_dir") {
        let pointer = format!("/{}", field.key.replace('.', "/"));
        let (read, default) =
            (read.pointer(&pointer).unwrap(), defaults.pointer(&pointer).unwrap());
        if field.example.is_some() {
            assert!(default.is_null() && !read.is_null(), "{}", field.key);
        } else {
            assert_eq!(read, default, "{}", field.key);
        }
    }
}

#[test]
fn the_reference_page_is_current() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/configuration.md");
    assert_eq!(
        fs::read_to_string(page).unwrap(),
        render::reference(),
        "docs/reference/configuration.md is stale: run `cargo xtask docs`"
    );
}

#[test]
fn defaults_pass_their_own_checks() {
    Config::default().validate().unwrap();
}

#[test]
fn unknown_keys_name_the_nearest_known_key() {
    let error = load_text("[server]\nnmae = \"a\"\n\n[lissen]\naddresses = []\n").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("no setting `server.nmae`; did you mean `server.name`?"), "{text}");
    assert!(
        text.contains("no setting `lissen.addresses`; did you mean `listen.addresses`?"),
        "{text}"
    );

    let error = load_env(&[("HEARTH_STORE__ENGIN", "fjall")]).unwrap_err().to_string();
    assert!(error.contains("HEARTH_STORE__ENGIN"), "{error}");
    assert!(error.contains("`store.engine`"), "{error}");
}

#[test]
fn wrong_types_name_their_key() {
    let error = load_text("[listen]\nmax_connections = \"many\"\n").unwrap_err().to_string();
    assert!(error.contains("listen.max_connections"), "{error}");
    assert!(error.contains("hearth.toml"), "{error}");
}

#[test]
fn values_out_of_range_name_their_key() {
    let error = load_text("[listen]\naddresses = []\n").unwrap_err().to_string();
    assert!(error.starts_with("listen.addresses:"), "{error}");
    for level in ["loud", "", "info,loud", "hearth_rooms=debug", "info,hearth=loud"] {
        let error = load_text(&format!("[log]\nlevel = {level:?}\n")).unwrap_err().to_string();
        assert!(error.starts_with("log.level:"), "{level}: {error}");
    }
    load_text("[log]\nlevel = \"warn,hearth_rooms=debug\"\n").unwrap();
}

#[test]
fn the_environment_wins_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hearth.toml");
    fs::write(&path, "[server]\nname = \"file.example\"\n[listen]\nmax_connections = 3\n").unwrap();
    let environment = [
        ("HEARTH_SERVER__NAME".to_owned(), "env.example".to_owned()),
        ("HEARTH_LISTEN__ADDRESSES".to_owned(), "0.0.0.0:1, [::]:2".to_owned()),
        ("HEARTHSTONE".to_owned(), "ignored".to_owned()),
        ("HEARTH_LOG".to_owned(), "ignored: no section".to_owned()),
    ];
    let config = load(Some(&path), environment).unwrap();
    assert_eq!(config.server.name, "env.example");
    assert_eq!(config.listen.addresses.len(), 2);
    assert_eq!(config.listen.max_connections, 3);
    assert_eq!(config.server.data_dir, folder.path().join("data"));
}

#[test]
fn a_value_given_in_part_is_completed_by_its_default() {
    let text = "[http.rate_limits.login]\nuser = { burst = 3 }\n";
    let limits = load_text(text).unwrap().http.rate_limits.login;
    let default = Config::default().http.rate_limits.login;
    assert_eq!(limits.user.burst, 3);
    assert_eq!(limits.user.per_second.to_bits(), default.user.per_second.to_bits());
    assert_eq!(limits.address.burst, default.address.burst);

    let limits = load_env(&[("HEARTH_USERS__ARGON2__ITERATIONS", "3")]).unwrap().users.argon2;
    assert_eq!((limits.iterations, limits.parallelism), (3, 1));
}

#[test]
fn the_environment_is_checked_too() {
    let error = load_env(&[("HEARTH_LISTEN__MAX_CONNECTIONS", "lots")]).unwrap_err().to_string();
    assert!(error.contains("HEARTH_LISTEN__MAX_CONNECTIONS"), "{error}");
    let error = load_env(&[("HEARTH_SERVER__NAME", "not a name!")]).unwrap_err().to_string();
    assert!(error.contains("server"), "{error}");
}
