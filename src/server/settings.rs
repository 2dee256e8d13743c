//! The settings: the built-in Leptos.toml, overridden by a settings file, overridden by environment variables.
//!
//! Each key is a line in Leptos.toml, which sets its default, and a field in this file, which determines its values.

mod values;

use std::{collections::HashMap, net::SocketAddr, num::NonZeroU32, path::Path};

use ipnet::IpNet;
use serde::Deserialize;
use thiserror::Error;
use toml::{Table, Value};

use super::{address, console::ConsoleSettings};
use tally_console::PasswordHash;
use tally_session::{
    Config, CookieSecure, Rate, SameSite, Transport,
    auth::Limits,
    store::{StoreOptions, StoreUrl},
};

/// Leptos.toml as of the build, with the default of every key.
const DEFAULTS: &str = include_str!("../../Leptos.toml");

/// How error messages refer to the defaults.
const DEFAULTS_NAME: &str = "the built-in Leptos.toml";

/// The settings file in the working directory, which is read unless another one is given. It may be missing.
pub const FILE: &str = "Leptos.toml";

/// Keys whose environment variable does not follow the naming scheme of [`variable`].
const VARIABLES: [(&str, &str, &str); 2] = [
    ("site", "address", "LEPTOS_SITE_ADDR"),
    ("site", "url", "TALLY_SITE_URL"),
];

/// Keys whose values are secrets, with the text that error messages show instead.
const SECRETS: [(&str, &str); 2] = [
    ("sessions.store", "not a store's URL"),
    ("console.password_hash", "not a hash"),
];

/// The settings of the server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address that the server listens on.
    pub address: SocketAddr,
    /// The origin that visitors use, such as `https://shop.example`. Empty if it is unknown.
    pub site: String,
    /// The session store.
    pub store: StoreOptions,
    /// The behaviour of sessions.
    pub sessions: Config,
    /// Other origins whose pages may send requests that change state.
    pub trusted_origins: Vec<String>,
    /// The host names that clients may request. Empty for any.
    pub allowed_hosts: Vec<String>,
    /// The proxies whose forwarding headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The `max-age` of `Strict-Transport-Security`, in seconds. 0 disables the header.
    pub hsts_age: u64,
    /// The maximum size of a request body, in bytes.
    pub body_limit: usize,
    /// The timeout for receiving a request body, and for handling a request, in seconds.
    pub request_timeout: u64,
    /// How long a connection may be idle, including the time until the head of its next request, in seconds.
    pub keep_alive_timeout: u64,
    /// How long the server tries to reach the store when it starts, in seconds.
    pub store_wait: u64,
    /// How long open requests may take to finish during shutdown, in seconds.
    pub drain_timeout: u64,
    /// How long the server accepts new connections after SIGTERM, in seconds.
    pub drain_delay: u64,
    /// The address that serves the metrics, or `None` if they are off.
    pub metrics: Option<SocketAddr>,
    /// The log filter: a level, or `tracing` directives.
    pub log: String,
    /// The format of the log.
    pub log_format: LogFormat,
    /// The admin console, or `None` if it is off.
    pub console: Option<ConsoleSettings>,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines of text.
    Pretty,
    /// Lines of JSON.
    Json,
}

/// The reason why the settings are invalid.
#[derive(Debug, Error)]
pub enum SettingsError {
    #[error("settings file {file} can't be read: {reason}")]
    Unreadable { file: String, reason: String },
    #[error("settings file {file} is not TOML: {reason}")]
    NotToml { file: String, reason: String },
    #[error("unknown setting {setting} in {origin}; the settings in [{section}] are: {known}")]
    Unknown {
        setting: String,
        origin: String,
        section: String,
        known: String,
    },
    #[error("unknown section [{section}] in {origin}; the sections are: {known}")]
    UnknownSection {
        section: String,
        origin: String,
        known: String,
    },
    #[error("{setting} is {value} in {origin}; allowed: {allowed}")]
    Invalid {
        setting: String,
        value: String,
        allowed: String,
        origin: String,
    },
}

/// The structure of Leptos.toml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    site: Site,
    sessions: Sessions,
    security: Security,
    console: Console,
    server: Server,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Site {
    #[serde(deserialize_with = "values::socket_address")]
    address: SocketAddr,
    #[serde(deserialize_with = "values::site")]
    url: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sessions {
    #[serde(deserialize_with = "values::store")]
    store: StoreUrl,
    #[serde(deserialize_with = "values::small::<_, 0>")]
    store_replicas: u32,
    #[serde(deserialize_with = "values::key_prefix")]
    store_prefix: String,
    #[serde(deserialize_with = "values::table")]
    store_table: String,
    #[serde(deserialize_with = "values::small::<_, 1>")]
    store_connections: u32,
    #[serde(deserialize_with = "values::number::<_, 1>")]
    cookie_age: u64,
    #[serde(deserialize_with = "values::boolean")]
    expire_at_browser_close: bool,
    #[serde(deserialize_with = "values::cookie_name")]
    cookie_name: String,
    #[serde(deserialize_with = "values::cookie_domain")]
    cookie_domain: String,
    #[serde(deserialize_with = "values::cookie_path")]
    cookie_path: String,
    #[serde(deserialize_with = "values::secure")]
    cookie_secure: Option<CookieSecure>,
    #[serde(deserialize_with = "values::boolean")]
    cookie_httponly: bool,
    #[serde(deserialize_with = "values::same_site")]
    cookie_samesite: SameSite,
    #[serde(deserialize_with = "values::boolean")]
    cookie_partitioned: bool,
    #[serde(deserialize_with = "values::transport")]
    header: Transport,
    #[serde(deserialize_with = "values::boolean")]
    save_every_request: bool,
    #[serde(deserialize_with = "values::number::<_, 0>")]
    renew_interval: u64,
    #[serde(deserialize_with = "values::limit")]
    idle_age: Option<u64>,
    #[serde(deserialize_with = "values::limit")]
    absolute_age: Option<u64>,
    #[serde(deserialize_with = "values::number::<_, 1>")]
    unconfirmed_age: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Security {
    #[serde(deserialize_with = "values::origins")]
    trusted_origins: Vec<String>,
    #[serde(deserialize_with = "values::list")]
    allowed_hosts: Vec<String>,
    #[serde(deserialize_with = "values::number::<_, 0>")]
    hsts_age: u64,
    #[serde(deserialize_with = "values::networks")]
    trusted_proxies: Vec<IpNet>,
    #[serde(deserialize_with = "values::small::<_, 1>")]
    new_sessions: u32,
    #[serde(deserialize_with = "values::small::<_, 0>")]
    new_sessions_per_second: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Console {
    #[serde(deserialize_with = "values::password_hash")]
    password_hash: Option<PasswordHash>,
    #[serde(deserialize_with = "values::number::<_, 1>")]
    idle_age: u64,
    #[serde(deserialize_with = "values::number::<_, 1>")]
    absolute_age: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    #[serde(deserialize_with = "values::size::<_, 1>")]
    body_limit: usize,
    #[serde(deserialize_with = "values::number::<_, 1>")]
    request_timeout: u64,
    #[serde(deserialize_with = "values::number::<_, 1>")]
    keep_alive_timeout: u64,
    #[serde(deserialize_with = "values::number::<_, 0>")]
    store_wait: u64,
    #[serde(deserialize_with = "values::number::<_, 0>")]
    drain_timeout: u64,
    #[serde(deserialize_with = "values::number::<_, 0>")]
    drain_delay: u64,
    #[serde(deserialize_with = "values::optional_address")]
    metrics: Option<SocketAddr>,
    #[serde(deserialize_with = "values::size::<_, 0>")]
    live_pages: usize,
    #[serde(deserialize_with = "values::log")]
    log: String,
    #[serde(deserialize_with = "values::log_format")]
    log_format: LogFormat,
}

impl Settings {
    /// Reads the settings from `file`, or from [`FILE`] if it exists, and from the environment.
    ///
    /// # Errors
    /// Returns the first error, with the setting, its value, the allowed values and the source of the value.
    pub fn read(file: Option<&Path>) -> Result<Self, SettingsError> {
        let (text, file_name) = read_file(file)?;
        Self::from_text(&text, &file_name, |name| std::env::var(name).ok())
    }

    /// Reads the settings from the text of a file, to which error messages refer as `file_name`.
    ///
    /// # Errors
    /// As for [`Settings::read`].
    pub fn from_text(
        text: &str,
        file_name: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let mut merged = Merged::defaults()?;
        merged.overlay_file(&parse(text, file_name)?, file_name)?;
        merged.overlay_environment(environment);
        merged.settings()
    }
}

fn read_file(file: Option<&Path>) -> Result<(String, String), SettingsError> {
    let path = file.unwrap_or(Path::new(FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((text, path.display().to_string())),
        Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Ok((String::new(), FILE.to_owned()))
        }
        Err(error) => Err(SettingsError::Unreadable {
            file: path.display().to_string(),
            reason: error.to_string(),
        }),
    }
}

fn parse(text: &str, file: &str) -> Result<Table, SettingsError> {
    text.parse::<Table>()
        .map_err(|error| SettingsError::NotToml {
            file: file.to_owned(),
            reason: error.message().to_owned(),
        })
}

fn names(table: &Table) -> String {
    table
        .keys()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The environment variable that overrides a key. Those of `[sessions]` follow Django's setting names.
fn variable(section: &str, key: &str) -> String {
    let exception = VARIABLES
        .iter()
        .find(|(s, k, _)| (*s, *k) == (section, key));
    match exception {
        Some((_, _, name)) => (*name).to_owned(),
        None if section == "sessions" => format!("SESSION_{}", key.to_uppercase()),
        None if section == "console" => format!("TALLY_CONSOLE_{}", key.to_uppercase()),
        None => format!("TALLY_{}", key.to_uppercase()),
    }
}

/// All sources merged into one table.
struct Merged {
    table: Table,
    /// The source of each value that is not a default, by `section.key`.
    origins: HashMap<String, String>,
}

impl Merged {
    fn defaults() -> Result<Self, SettingsError> {
        Ok(Self {
            table: parse(DEFAULTS, DEFAULTS_NAME)?,
            origins: HashMap::new(),
        })
    }

    fn overlay_file(&mut self, file: &Table, name: &str) -> Result<(), SettingsError> {
        for (section, overrides) in file {
            let known = self.table.get_mut(section).and_then(Value::as_table_mut);
            let (Some(known), Some(overrides)) = (known, overrides.as_table()) else {
                return Err(SettingsError::UnknownSection {
                    section: section.clone(),
                    origin: name.to_owned(),
                    known: names(&self.table),
                });
            };
            for (key, value) in overrides {
                let setting = format!("{section}.{key}");
                let Some(current) = known.get_mut(key) else {
                    return Err(SettingsError::Unknown {
                        setting,
                        origin: name.to_owned(),
                        section: section.clone(),
                        known: names(known),
                    });
                };
                *current = value.clone();
                self.origins.insert(setting, format!("{name} [{section}]"));
            }
        }
        Ok(())
    }

    fn overlay_environment(&mut self, environment: impl Fn(&str) -> Option<String>) {
        // Secrets that are read from files often end with a line break. An empty variable counts as not set.
        let get = |name: &str| {
            let text = environment(name)?.trim().to_owned();
            (!text.is_empty()).then(|| (name.to_owned(), text))
        };
        for (section, keys) in &mut self.table {
            for (key, current) in keys.as_table_mut().into_iter().flatten() {
                let mut found = get(&variable(section, key));
                if (section.as_str(), key.as_str()) == ("sessions", "store") {
                    let others = ["REDIS_URL", "DATABASE_URL"];
                    found = found.or_else(|| others.into_iter().find_map(get));
                }
                if let Some((name, text)) = found {
                    *current = Value::String(text);
                    let origin = format!("the environment variable {name}");
                    self.origins.insert(format!("{section}.{key}"), origin);
                }
            }
        }
    }

    /// The error for a key whose value is not allowed.
    fn invalid(&self, setting: &str, allowed: &str) -> SettingsError {
        let secret = SECRETS.iter().find(|(secret, _)| *secret == setting);
        let value = match (secret, self.value(setting)) {
            (Some((_, instead)), _) => (*instead).to_owned(),
            (None, Some(Value::String(text))) => format!("{text:?}"),
            (None, Some(other)) => other.to_string().replace('\n', " "),
            (None, None) => "missing".to_owned(),
        };
        let origin = self.origins.get(setting);
        SettingsError::Invalid {
            setting: setting.to_owned(),
            value,
            allowed: allowed.to_owned(),
            origin: origin.cloned().unwrap_or_else(|| DEFAULTS_NAME.to_owned()),
        }
    }

    fn value(&self, setting: &str) -> Option<&Value> {
        let (section, key) = setting.split_once('.')?;
        self.table.get(section)?.get(key)
    }

    fn settings(&self) -> Result<Settings, SettingsError> {
        let table = Value::Table(self.table.clone());
        let file: File = serde_path_to_error::deserialize(table).map_err(|error| {
            let setting = error.path().to_string();
            self.invalid(&setting, error.inner().message())
        })?;
        let address = file.site.address;
        let site = match file.site.url.as_str() {
            "" if address.ip().is_unspecified() => String::new(),
            "" => format!("http://{address}"),
            url => url.to_owned(),
        };
        let limits = Limits {
            idle: Some(file.console.idle_age),
            absolute: Some(file.console.absolute_age),
        };
        let console = file.console.password_hash.clone();
        let console = console.map(|password| ConsoleSettings { password, limits });
        Ok(Settings {
            address,
            sessions: self.sessions(&file, &site, console.is_some())?,
            site,
            store: StoreOptions {
                url: file.sessions.store,
                replicas: file.sessions.store_replicas,
                prefix: file.sessions.store_prefix,
                table: file.sessions.store_table,
                connections: file.sessions.store_connections,
            },
            console,
            trusted_origins: file.security.trusted_origins,
            allowed_hosts: file.security.allowed_hosts,
            trusted_proxies: file.security.trusted_proxies,
            hsts_age: file.security.hsts_age,
            body_limit: file.server.body_limit,
            request_timeout: file.server.request_timeout,
            keep_alive_timeout: file.server.keep_alive_timeout,
            store_wait: file.server.store_wait,
            drain_timeout: file.server.drain_timeout,
            drain_delay: file.server.drain_delay,
            metrics: file.server.metrics,
            log: file.server.log,
            log_format: file.server.log_format,
        })
    }

    fn sessions(
        &self,
        file: &File,
        site: &str,
        record_stats: bool,
    ) -> Result<Config, SettingsError> {
        let File {
            sessions,
            security,
            server,
            ..
        } = file;
        let loopback_http = site.strip_prefix("http://").is_some_and(is_loopback);
        let by_site = if loopback_http {
            CookieSecure::IfHttps
        } else {
            CookieSecure::Always
        };
        let rate = NonZeroU32::new(security.new_sessions)
            .zip(NonZeroU32::new(security.new_sessions_per_second));
        let config = Config {
            cookie_age: sessions.cookie_age,
            expire_at_browser_close: sessions.expire_at_browser_close,
            cookie_name: sessions.cookie_name.clone(),
            cookie_domain: sessions.cookie_domain.clone(),
            cookie_path: sessions.cookie_path.clone(),
            cookie_secure: sessions.cookie_secure.unwrap_or(by_site),
            cookie_http_only: sessions.cookie_httponly,
            cookie_same_site: sessions.cookie_samesite,
            cookie_partitioned: sessions.cookie_partitioned,
            transport: sessions.header.clone(),
            renew_interval: sessions.renew_interval,
            save_every_request: sessions.save_every_request,
            idle_age: sessions.idle_age,
            absolute_age: sessions.absolute_age,
            unconfirmed_age: sessions.unconfirmed_age,
            max_subscribers: server.live_pages,
            new_sessions: rate.map(|(burst, per_second)| Rate { burst, per_second }),
            record_stats,
            ..Config::default()
        };
        self.check(&config)?;
        Ok(config)
    }

    /// Rejects combinations of cookie settings for which browsers would drop the cookie.
    fn check(&self, config: &Config) -> Result<(), SettingsError> {
        let is_secure = config.cookie_secure == CookieSecure::Always;
        let is_host = config.cookie_name.starts_with("__Host-");
        let has_prefix = is_host || config.cookie_name.starts_with("__Secure-");
        let has_scope = !config.cookie_domain.is_empty() || config.cookie_path != "/";
        let rules = [
            (
                config.cookie_same_site == SameSite::None && !is_secure,
                "sessions.cookie_samesite",
                "Strict or Lax; None needs cookie_secure",
            ),
            (
                config.cookie_partitioned && !is_secure,
                "sessions.cookie_partitioned",
                "false; true needs cookie_secure",
            ),
            (
                has_prefix && !is_secure,
                "sessions.cookie_name",
                "a __Host- or __Secure- name only with cookie_secure",
            ),
            (
                is_host && has_scope,
                "sessions.cookie_name",
                "a __Host- name only without cookie_domain and with cookie_path /",
            ),
        ];
        match rules.into_iter().find(|(is_broken, ..)| *is_broken) {
            Some((_, setting, allowed)) => Err(self.invalid(setting, allowed)),
            None => Ok(()),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_end_matches('/');
    host.parse::<SocketAddr>()
        .is_ok_and(|address| address.ip().is_loopback())
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
        || host.split(':').next() == Some("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The environment variable of each key, with the default as its text.
    fn keys() -> Vec<(String, String)> {
        let defaults = parse(DEFAULTS, "the defaults").expect("TOML");
        let mut keys = Vec::new();
        for (section, table) in &defaults {
            for (key, default) in table.as_table().expect("a section") {
                let text = match default {
                    Value::String(text) => text.clone(),
                    Value::Array(_) => String::new(),
                    other => other.to_string(),
                };
                keys.push((variable(section, key), text));
            }
        }
        keys
    }

    fn with(name: &str, text: &str) -> Result<Settings, SettingsError> {
        let (name, text) = (name.to_owned(), text.to_owned());
        Settings::from_text("", "no file", move |asked| {
            (asked == name).then(|| text.clone())
        })
    }

    #[test]
    fn whitespace_around_variables_and_empty_variables_are_ignored() {
        let defaults = format!("{:?}", with("", "").expect("the defaults"));
        for (name, text) in keys() {
            for text in [format!(" \t{text}\r\n"), String::new(), " \n".to_owned()] {
                let settings = with(&name, &text).expect(&name);
                assert_eq!(format!("{settings:?}"), defaults, "{name}={text:?}");
            }
        }
    }

    #[test]
    fn words_are_case_insensitive_and_addresses_may_be_names() {
        let settings = with("SESSION_COOKIE_SAMESITE", "strict").expect("a word");
        assert_eq!(settings.sessions.cookie_same_site, SameSite::Strict);
        let settings = with("TALLY_LOG_FORMAT", "JSON").expect("a word");
        assert_eq!(settings.log_format, LogFormat::Json);
        let settings = with("LEPTOS_SITE_ADDR", "localhost:3000").expect("a name");
        assert!(settings.address.ip().is_loopback());
        let settings = with("TALLY_METRICS", "off").expect("off");
        assert_eq!(settings.metrics, None);
        let settings = with("SESSION_STORE", "  redis://127.0.0.1:6379/3\n").expect("a URL");
        let store = settings.store.url.to_string();
        assert_eq!(store, "Redis, 127.0.0.1:6379, database 3");
    }

    #[test]
    fn the_log_filter_is_a_level_or_directives() {
        for text in [
            "INFO",
            "warn,tally=debug",
            "tally::server[request]=trace,fred=off",
        ] {
            assert_eq!(with("TALLY_LOG", text).expect(text).log, text);
        }
        for text in ["loud", "info,loud", "tally=loud"] {
            let error = with("TALLY_LOG", text).expect_err(text).to_string();
            assert!(error.contains("tracing directives"), "{error}");
        }
    }

    #[test]
    fn an_error_shows_the_value_as_it_was_written() {
        let error = |name: &str, text: &str| with(name, text).expect_err("refused").to_string();
        let zero = error("SESSION_COOKIE_AGE", "0");
        assert!(
            zero.contains("is \"0\" in the environment variable SESSION_COOKIE_AGE"),
            "{zero}"
        );
        let large = error("SESSION_COOKIE_AGE", "999999999999999");
        assert!(
            large.contains("a whole number from 1 to 315360000000"),
            "{large}"
        );
        let several = error("SESSION_STORE", "memcached://a:1,b:2");
        assert!(several.contains("one Memcached server"), "{several}");
    }
}
