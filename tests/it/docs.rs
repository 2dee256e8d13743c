//! The docs match the code: the settings with their defaults, the names of tests, and the links to files.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use tally::server::settings::Settings;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The text between a pair of backticks.
fn code(cell: &str) -> &str {
    cell.trim().trim_matches('`')
}

/// A value of Leptos.toml in the notation of the docs.
fn written(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) if text.is_empty() => "empty".to_owned(),
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(entries) if entries.is_empty() => "none".to_owned(),
        other => other.to_string(),
    }
}

/// The keys of Leptos.toml with their defaults.
fn defaults() -> BTreeMap<String, String> {
    let settings: toml::Table = read(&root().join("Leptos.toml")).parse().expect("TOML");
    let mut defaults = BTreeMap::new();
    for (section, keys) in &settings {
        for (key, value) in keys.as_table().expect("a section") {
            defaults.insert(format!("{section}.{key}"), written(value));
        }
    }
    defaults
}

#[test]
fn the_docs_list_every_setting() {
    let docs = read(&root().join("docs/settings.md"));
    let rows = docs.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split('|').map(code).collect()).collect();
    let documented = rows
        .iter()
        .map(|row| (row[2].to_owned(), row[3].to_owned()))
        .collect::<BTreeMap<_, _>>();
    assert_eq!(documented, defaults());
    let asked = RefCell::new(BTreeSet::new());
    Settings::from_text("", "no file", |name| {
        asked.borrow_mut().insert(name.to_owned());
        None
    })
    .expect("the defaults");
    let variables: BTreeSet<String> = rows.iter().map(|row| row[1].to_owned()).collect();
    let asked = asked.into_inner();
    // These are alternatives to SESSION_STORE, which have no rows of their own.
    let stand_ins = ["DATABASE_URL", "REDIS_URL"].map(str::to_owned);
    let asked: BTreeSet<String> = asked.difference(&stand_ins.into()).cloned().collect();
    assert_eq!(variables, asked);
}

/// The links to tests in a text: the name of each test, and its file relative to the text's folder.
fn tests_named_in(text: &str) -> Vec<(&str, &str)> {
    text.split("[`")
        .skip(1)
        .filter_map(|part| {
            let (_, rest) = part.split_once("`: `")?;
            let (name, rest) = rest.split_once("`](")?;
            let (file, _) = rest.split_once(')')?;
            Some((name, file))
        })
        .collect()
}

#[test]
fn every_test_that_the_docs_name_exists() {
    let mut named = 0;
    for entry in fs::read_dir(root().join("docs")).expect("the docs") {
        let page = entry.expect("a file").path();
        if page.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = read(&page);
        for (name, file) in tests_named_in(&text) {
            let source = read(&root().join("docs").join(file));
            let is_there = if file.ends_with(".rs") {
                source.contains(&format!("fn {name}("))
            } else {
                source.contains(name)
            };
            assert!(is_there, "{}: {file} has no test {name}", page.display());
            named += 1;
        }
    }
    assert!(named > 100, "{named}");
}

#[test]
fn every_link_to_a_file_leads_somewhere() {
    let mut pages: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]
        .map(|page| root().join(page))
        .to_vec();
    pages.extend(
        ["session", "console"].map(|name| root().join("crates").join(name).join("README.md")),
    );
    let docs = fs::read_dir(root().join("docs")).expect("the docs");
    pages.extend(docs.map(|entry| entry.expect("a file").path()));
    for page in pages
        .iter()
        .filter(|page| page.extension().is_some_and(|end| end == "md"))
    {
        let text = read(page);
        for part in text.split("](").skip(1) {
            let target = part.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let file = page.parent().expect("a folder").join(target);
            assert!(file.exists(), "{}: {target}", page.display());
        }
    }
}
