use std::{collections::BTreeSet, fs, path::Path};

use super::{fields, load::keys_of_types, *};

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

#[test]
fn the_table_has_exactly_the_settings_of_the_types() {
    let documented: BTreeSet<_> = fields::all().map(|field| field.key.to_owned()).collect();
    let existing: BTreeSet<_> = keys_of_types(&Config::default()).into_iter().collect();
    assert_eq!(documented, existing);
    for section in fields::SECTIONS {
        for field in section.fields {
            assert_eq!(field.key.split_once('.').unwrap().0, section.name, "{}", field.key);
        }
    }
}

#[test]
fn the_example_sets_every_setting_and_changes_nothing() {
    let example = render::example();
    assert_eq!(
        toml::from_str::<toml::Table>(&example).unwrap().values().count(),
        fields::SECTIONS.len()
    );

    let everything: toml::Table = toml::from_str(&uncommented(&example)).unwrap();
    let set: BTreeSet<_> = everything
        .iter()
        .flat_map(|(section, fields)| {
            fields.as_table().unwrap().keys().map(move |name| format!("{section}.{name}"))
        })
        .collect();
    let documented: BTreeSet<_> = fields::all().map(|field| field.key.to_owned()).collect();
    assert_eq!(set, documented);

    // Every value shown has the right type and passes the checks; the shown defaults are the defaults.
    let config = load_text(&uncommented(&example)).unwrap();
    let shown = serde_json::to_value(&config).unwrap();
    let defaults = serde_json::to_value(Config::default()).unwrap();
    for field in fields::all() {
        let (section, name) = field.key.split_once('.').unwrap();
        if field.key == "server.data_dir" {
            continue; // Made absolute.
        }
        if field.example.is_some() {
            assert!(defaults[section][name].is_null(), "{} has a default", field.key);
            assert!(!shown[section][name].is_null(), "{} has no example", field.key);
        } else {
            assert_eq!(shown[section][name], defaults[section][name], "{}", field.key);
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
fn wrong_types_show_the_line() {
    let error = load_text("[listen]\nmax_connections = \"many\"\n").unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
    assert!(error.contains("max_connections"), "{error}");
}

#[test]
fn values_out_of_range_name_their_key() {
    let error = load_text("[listen]\naddresses = []\n").unwrap_err().to_string();
    assert!(error.starts_with("`listen.addresses`"), "{error}");
    let error = load_text("[log]\nlevel = \"loud\"\n").unwrap_err().to_string();
    assert!(error.starts_with("`log.level`"), "{error}");
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
fn the_environment_is_checked_too() {
    let error = load_env(&[("HEARTH_LISTEN__MAX_CONNECTIONS", "lots")]).unwrap_err().to_string();
    assert!(error.contains("HEARTH_LISTEN__MAX_CONNECTIONS"), "{error}");
    let error = load_env(&[("HEARTH_SERVER__NAME", "not a name!")]).unwrap_err().to_string();
    assert!(error.contains("server"), "{error}");
}
