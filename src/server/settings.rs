//! The settings: Leptos.toml as compiled in, overlaid by a file, overlaid by the environment.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    num::NonZeroU32,
    path::Path,
};

use axum::http::HeaderName;
use ipnet::IpNet;
use thiserror::Error;
use toml::{Table, Value};

use super::{address, console::ConsoleSettings};
use crate::snapshot::REVISION;
use tally_console::PasswordHash;
use tally_session::{
    Config, CookieSecure, Rate, SameSite, Transport,
    auth::Limits,
    store::{StoreOptions, StoreUrl},
};

/// Leptos.toml as it was when the server was built: every key and its default.
const DEFAULTS: &str = include_str!("../../Leptos.toml");

/// The file beside the server that is read when none is named; it may be missing.
pub const FILE: &str = "Leptos.toml";

/// Ages end up as a point in time; ten thousand years keep every sum in range.
const LARGEST: u64 = 315_360_000_000;

/// Keys whose variable is not the section's prefix and the key.
const VARIABLES: [(&str, &str, &str); 2] = [
    ("site", "address", "LEPTOS_SITE_ADDR"),
    ("site", "url", "TALLY_SITE_URL"),
];

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the server listens.
    pub address: SocketAddr,
    /// The address that visitors use, as https://shop.example; empty: nobody knows.
    pub site: String,
    /// Which engine keeps the sessions, and how.
    pub store: StoreOptions,
    pub sessions: Config,
    /// Origins besides the site's own whose pages may post here.
    pub trusted_origins: Vec<String>,
    /// Host names that visitors may use; empty: any.
    pub allowed_hosts: Vec<String>,
    /// The proxies in front, whose word about visitors is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Strict-Transport-Security's max-age, in seconds; 0: off.
    pub hsts_age: u64,
    /// The largest body, in bytes.
    pub body_limit: usize,
    /// The longest request, in seconds.
    pub request_timeout: u64,
    /// How long a connection may wait for its next request, and take for that request's head, in seconds.
    pub keep_alive_timeout: u64,
    /// How long the start tries to reach the session store, in seconds.
    pub store_wait: u64,
    /// How long open requests may go on after the signal to stop, in seconds.
    pub drain_timeout: u64,
    /// How long new connections are still taken after the signal to stop, in seconds.
    pub drain_delay: u64,
    /// Where the metrics are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// What is logged.
    pub log: String,
    pub log_format: LogFormat,
    /// The operator's console; `None`: there is none.
    pub console: Option<ConsoleSettings>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Pretty,
    /// A line of JSON.
    Json,
}

/// Why the settings can't be used, in one line.
#[derive(Debug, Error)]
pub enum SettingsError {
    #[error("settings file {file} can't be read: {reason}")]
    Unreadable { file: String, reason: String },
    #[error("settings file {file} is not TOML: {reason}")]
    NotToml { file: String, reason: String },
    #[error("unknown setting {setting} in {origin}; known in [{section}]: {known}")]
    Unknown {
        setting: String,
        origin: String,
        section: String,
        known: String,
    },
    #[error("unknown section [{section}] in {origin}; known: {known}")]
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

/// A value and where it was read.
#[derive(Clone)]
struct Sourced {
    value: Value,
    origin: String,
}

/// The three sources, asked key by key.
struct Sources {
    defaults: Table,
    file: Table,
    file_name: String,
    environment: Environment,
}

/// What a variable of the environment holds.
type Environment = Box<dyn Fn(&str) -> Option<String>>;

impl Settings {
    /// Reads the settings: `file` where given, else [`FILE`] where it exists, and the environment.
    ///
    /// # Errors
    /// The first thing that is wrong, naming the setting, its value, what is allowed, and where it was read.
    pub fn read(file: Option<&Path>) -> Result<Self, SettingsError> {
        let (text, file_name) = read_file(file)?;
        Self::from_text(&text, &file_name, |name| std::env::var(name).ok())
    }

    /// The same of a file's text, which messages name as `file_name`.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn from_text(
        text: &str,
        file_name: &str,
        environment: impl Fn(&str) -> Option<String> + 'static,
    ) -> Result<Self, SettingsError> {
        let sources = Sources {
            defaults: parse(DEFAULTS, "the built-in Leptos.toml")?,
            file: parse(text, file_name)?,
            file_name: file_name.to_owned(),
            environment: Box::new(environment),
        };
        sources.refuse_unknown()?;
        sources.settings()
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

/// The variable that overrides a key: Django's own name for the sessions.
fn variable(section: &str, key: &str) -> String {
    let own = VARIABLES
        .iter()
        .find(|(s, k, _)| (*s, *k) == (section, key));
    match own {
        Some((_, _, name)) => (*name).to_owned(),
        None if section == "sessions" => format!("SESSION_{}", key.to_uppercase()),
        None if section == "console" => format!("TALLY_CONSOLE_{}", key.to_uppercase()),
        None => format!("TALLY_{}", key.to_uppercase()),
    }
}

impl Sources {
    fn refuse_unknown(&self) -> Result<(), SettingsError> {
        for (section, value) in &self.file {
            let known = self.defaults.get(section).and_then(Value::as_table);
            let (Some(known), Some(given)) = (known, value.as_table()) else {
                return Err(SettingsError::UnknownSection {
                    section: section.clone(),
                    origin: self.file_name.clone(),
                    known: names(&self.defaults),
                });
            };
            if let Some(key) = given.keys().find(|key| !known.contains_key(*key)) {
                return Err(SettingsError::Unknown {
                    setting: format!("{section}.{key}"),
                    origin: self.file_name.clone(),
                    section: section.clone(),
                    known: names(known),
                });
            }
        }
        Ok(())
    }

    /// The value in force: the environment's, else the file's, else the default.
    fn get(&self, section: &str, key: &str) -> Sourced {
        let name = variable(section, key);
        if let Some(text) = self.variable(&name) {
            return Sourced {
                value: Value::String(text),
                origin: format!("the environment variable {name}"),
            };
        }
        let in_table = |table: &Table| table.get(section)?.get(key).cloned();
        if let Some(value) = in_table(&self.file) {
            return Sourced {
                value,
                origin: format!("{} [{section}]", self.file_name),
            };
        }
        Sourced {
            value: in_table(&self.defaults).unwrap_or(Value::Boolean(false)),
            origin: "the built-in Leptos.toml".to_owned(),
        }
    }

    /// A variable without the blanks and line ends around it, which come with secrets that are files; an
    /// empty one is none.
    fn variable(&self, name: &str) -> Option<String> {
        let text = (self.environment)(name)?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn text(&self, section: &str, key: &str) -> Result<String, SettingsError> {
        let sourced = self.get(section, key);
        match &sourced.value {
            Value::String(text) => Ok(text.clone()),
            _ => Err(sourced.invalid(section, key, "a text")),
        }
    }

    fn number(&self, section: &str, key: &str, least: u64) -> Result<u64, SettingsError> {
        let sourced = self.get(section, key);
        let number = match &sourced.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number
            .filter(|number| (least..=LARGEST).contains(number))
            .ok_or_else(|| {
                let allowed = format!("a whole number from {least} to {LARGEST}");
                sourced.invalid(section, key, &allowed)
            })
    }

    /// A number of things, far fewer than seconds there are.
    fn small(&self, section: &str, key: &str, least: u64) -> Result<u32, SettingsError> {
        let number = self.number(section, key, least)?;
        u32::try_from(number).map_err(|_| {
            let allowed = format!("a whole number from {least} to {}", u32::MAX);
            self.get(section, key).invalid(section, key, &allowed)
        })
    }

    /// `None`: no limit.
    fn new_sessions(&self) -> Result<Option<Rate>, SettingsError> {
        let burst = self.small("security", "new_sessions", 1)?;
        let per_second = self.small("security", "new_sessions_per_second", 0)?;
        let rate = NonZeroU32::new(burst).zip(NonZeroU32::new(per_second));
        Ok(rate.map(|(burst, per_second)| Rate { burst, per_second }))
    }

    fn networks(&self, section: &str, key: &str) -> Result<Vec<IpNet>, SettingsError> {
        let list = self.list(section, key)?;
        let networks = list.iter().map(|text| address::network(text));
        networks.collect::<Option<_>>().ok_or_else(|| {
            let allowed = "addresses and networks, as 192.0.2.7 or 10.0.0.0/8";
            self.get(section, key).invalid(section, key, allowed)
        })
    }

    /// A number of seconds, or `None` where 0 says that there is no limit.
    fn limit(&self, section: &str, key: &str) -> Result<Option<u64>, SettingsError> {
        self.number(section, key, 0)
            .map(|seconds| Some(seconds).filter(|seconds| *seconds > 0))
    }

    fn boolean(&self, section: &str, key: &str) -> Result<bool, SettingsError> {
        let sourced = self.get(section, key);
        match &sourced.value {
            Value::Boolean(value) => Some(*value),
            Value::String(text) => truth(text),
            _ => None,
        }
        .ok_or_else(|| sourced.invalid(section, key, "true or false"))
    }

    fn checked<T>(
        &self,
        section: &str,
        key: &str,
        allowed: &str,
        check: impl Fn(&str) -> Option<T>,
    ) -> Result<T, SettingsError> {
        let text = self.text(section, key)?;
        check(&text).ok_or_else(|| self.get(section, key).invalid(section, key, allowed))
    }

    /// One of these words, in any case.
    fn one_of<T: Clone>(
        &self,
        section: &str,
        key: &str,
        words: &[(&str, T)],
    ) -> Result<T, SettingsError> {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.checked(section, key, &names.join(", "), |text| {
            let mut words = words.iter();
            let found = words.find(|(word, _)| word.eq_ignore_ascii_case(text));
            found.map(|(_, value)| value.clone())
        })
    }

    fn list(&self, section: &str, key: &str) -> Result<Vec<String>, SettingsError> {
        let sourced = self.get(section, key);
        let list = match &sourced.value {
            Value::Array(values) => values
                .iter()
                .map(|value| value.as_str().map(str::to_owned))
                .collect(),
            Value::String(text) => Some(
                text.split(',')
                    .map(|part| part.trim().to_owned())
                    .filter(|part| !part.is_empty())
                    .collect(),
            ),
            _ => None,
        };
        list.ok_or_else(|| sourced.invalid(section, key, "a list of texts"))
    }

    fn settings(&self) -> Result<Settings, SettingsError> {
        let address: SocketAddr = self.checked(
            "site",
            "address",
            "an address and a port, as 127.0.0.1:3000, localhost:3000 or [::]:80",
            socket_address,
        )?;
        let trusted_origins = self.list("security", "trusted_origins")?;
        if let Some(bad) = trusted_origins.iter().find(|origin| !is_origin(origin)) {
            return Err(SettingsError::Invalid {
                setting: "security.trusted_origins".to_owned(),
                value: format!("{bad:?}"),
                allowed: "scheme://host[:port], as https://shop.example".to_owned(),
                origin: self.get("security", "trusted_origins").origin,
            });
        }
        let console = self.console()?;
        Ok(Settings {
            address,
            site: self.site(address)?,
            store: StoreOptions {
                url: self.store()?,
                replicas: self.small("sessions", "store_replicas", 0)?,
                prefix: self.checked(
                    "sessions",
                    "store_prefix",
                    "at most 100 letters, digits and signs, without blanks, or empty",
                    |text| is_key_prefix(text).then(|| text.to_owned()),
                )?,
            },
            sessions: self.sessions(address, console.is_some())?,
            console,
            trusted_origins,
            allowed_hosts: self.list("security", "allowed_hosts")?,
            trusted_proxies: self.networks("security", "trusted_proxies")?,
            hsts_age: self.number("security", "hsts_age", 0)?,
            body_limit: usize::try_from(self.number("server", "body_limit", 1)?)
                .unwrap_or(usize::MAX),
            request_timeout: self.number("server", "request_timeout", 1)?,
            keep_alive_timeout: self.number("server", "keep_alive_timeout", 1)?,
            store_wait: self.number("server", "store_wait", 0)?,
            drain_timeout: self.number("server", "drain_timeout", 0)?,
            drain_delay: self.number("server", "drain_delay", 0)?,
            metrics: self.checked(
                "server",
                "metrics",
                "an address and a port, or off",
                |text| {
                    if text.is_empty() || text.eq_ignore_ascii_case("off") {
                        return Some(None);
                    }
                    socket_address(text).map(Some)
                },
            )?,
            log: self.one_of(
                "server",
                "log",
                &["error", "warn", "info", "debug", "trace"].map(|level| (level, level.to_owned())),
            )?,
            log_format: self.one_of(
                "server",
                "log_format",
                &[("pretty", LogFormat::Pretty), ("json", LogFormat::Json)],
            )?,
        })
    }

    fn sessions(&self, address: SocketAddr, record_stats: bool) -> Result<Config, SettingsError> {
        let secure = self.secure(address)?;
        let same_site = self.one_of(
            "sessions",
            "cookie_samesite",
            &[
                ("Strict", SameSite::Strict),
                ("Lax", SameSite::Lax),
                ("None", SameSite::None),
            ],
        )?;
        if same_site == SameSite::None && secure != CookieSecure::Always {
            return Err(self.get("sessions", "cookie_samesite").invalid(
                "sessions",
                "cookie_samesite",
                "Strict or Lax; None needs cookie_secure",
            ));
        }
        let config = Config {
            cookie_age: self.number("sessions", "cookie_age", 1)?,
            expire_at_browser_close: self.boolean("sessions", "expire_at_browser_close")?,
            cookie_name: self.checked(
                "sessions",
                "cookie_name",
                "a cookie name: letters, digits and !#$%&'*+-.^_`|~",
                |text| is_token(text).then(|| text.to_owned()),
            )?,
            cookie_domain: self.checked(
                "sessions",
                "cookie_domain",
                "a host name, or empty",
                |text| is_host(text).then(|| text.to_owned()),
            )?,
            cookie_path: self.checked(
                "sessions",
                "cookie_path",
                "a path that begins with /",
                |text| is_path(text).then(|| text.to_owned()),
            )?,
            cookie_secure: secure,
            cookie_http_only: self.boolean("sessions", "cookie_httponly")?,
            cookie_same_site: same_site,
            cookie_partitioned: self.partitioned(secure)?,
            transport: self.transport()?,
            renew_interval: self.number("sessions", "renew_interval", 0)?,
            save_every_request: self.boolean("sessions", "save_every_request")?,
            idle_age: self.limit("sessions", "idle_age")?,
            absolute_age: self.limit("sessions", "absolute_age")?,
            unconfirmed_age: self.number("sessions", "unconfirmed_age", 1)?,
            max_subscribers: usize::try_from(self.number("server", "live_pages", 0)?)
                .unwrap_or(usize::MAX),
            new_sessions: self.new_sessions()?,
            revision_header: Some(HeaderName::from_static(REVISION)),
            record_stats,
            ..Config::default()
        };
        self.check_prefix(&config)?;
        Ok(config)
    }

    /// Browsers take such a cookie only if it is Secure.
    fn partitioned(&self, secure: CookieSecure) -> Result<bool, SettingsError> {
        let key = "cookie_partitioned";
        let partitioned = self.boolean("sessions", key)?;
        if partitioned && secure != CookieSecure::Always {
            let sourced = self.get("sessions", key);
            return Err(sourced.invalid("sessions", key, "false; true needs cookie_secure"));
        }
        Ok(partitioned)
    }

    /// No header: cookies alone.
    fn transport(&self) -> Result<Transport, SettingsError> {
        let allowed = "a header's name, as x-auth-token, or empty";
        self.checked("sessions", "header", allowed, |text| match text {
            "" => Some(Transport::Cookie),
            name => name.parse().ok().map(Transport::CookieOrHeader),
        })
    }

    /// No hash: no console.
    fn console(&self) -> Result<Option<ConsoleSettings>, SettingsError> {
        let limits = Limits {
            idle: Some(self.number("console", "idle_age", 1)?),
            absolute: Some(self.number("console", "absolute_age", 1)?),
        };
        let text = self.text("console", "password_hash")?;
        if text.is_empty() {
            return Ok(None);
        }
        let password = PasswordHash::parse(&text);
        let password = password.ok_or_else(|| SettingsError::Invalid {
            setting: "console.password_hash".to_owned(),
            // Somebody may have written the password itself here.
            value: "not a hash".to_owned(),
            allowed: "what tally hash-password prints, or empty".to_owned(),
            origin: self.get("console", "password_hash").origin,
        })?;
        Ok(Some(ConsoleSettings { password, limits }))
    }

    /// SESSION_STORE, else REDIS_URL, else the file's or the built-in store.
    fn store(&self) -> Result<StoreUrl, SettingsError> {
        let mut sourced = self.get("sessions", "store");
        if self.variable("SESSION_STORE").is_none()
            && let Some(url) = self.variable("REDIS_URL")
        {
            sourced = Sourced {
                value: Value::String(url),
                origin: "the environment variable REDIS_URL".to_owned(),
            };
        }
        let url = sourced.value.as_str().ok_or(StoreUrl::ALLOWED);
        // A store's URL may hold a password, so the value itself stays out of the line.
        url.and_then(StoreUrl::parse)
            .map_err(|allowed| SettingsError::Invalid {
                setting: "sessions.store".to_owned(),
                value: "not a store's URL".to_owned(),
                allowed: allowed.to_owned(),
                origin: sourced.origin,
            })
    }

    /// site.url; where it is empty, where the server listens, unless that is everywhere.
    fn site(&self, address: SocketAddr) -> Result<String, SettingsError> {
        let allowed = "http://host or https://host, or empty";
        self.checked("site", "url", allowed, |text| {
            let origin = text.trim_end_matches('/');
            match origin {
                "" if address.ip().is_unspecified() => Some(String::new()),
                "" => Some(format!("http://{address}")),
                _ => is_origin(origin).then(|| origin.to_owned()),
            }
        })
    }

    fn secure(&self, address: SocketAddr) -> Result<CookieSecure, SettingsError> {
        let site = self.site(address)?;
        let loopback_http = site.strip_prefix("http://").is_some_and(is_loopback);
        let sourced = self.get("sessions", "cookie_secure");
        let always = match &sourced.value {
            Value::Boolean(secure) => Some(*secure),
            Value::String(text) if text.eq_ignore_ascii_case("auto") => {
                return Ok(if loopback_http {
                    CookieSecure::WhereHttps
                } else {
                    CookieSecure::Always
                });
            }
            Value::String(text) => truth(text),
            _ => None,
        };
        let secure = always.map(|always| {
            if always {
                CookieSecure::Always
            } else {
                CookieSecure::Never
            }
        });
        secure.ok_or_else(|| sourced.invalid("sessions", "cookie_secure", "auto, true or false"))
    }

    /// Browsers drop a cookie whose name promises more than its attributes keep.
    fn check_prefix(&self, config: &Config) -> Result<(), SettingsError> {
        let host = config.cookie_name.starts_with("__Host-");
        let broken = if (host || config.cookie_name.starts_with("__Secure-"))
            && config.cookie_secure != CookieSecure::Always
        {
            "a __Host- or __Secure- name only with cookie_secure"
        } else if host && (!config.cookie_domain.is_empty() || config.cookie_path != "/") {
            "a __Host- name only without cookie_domain and with cookie_path /"
        } else {
            return Ok(());
        };
        Err(self
            .get("sessions", "cookie_name")
            .invalid("sessions", "cookie_name", broken))
    }
}

impl Sourced {
    fn invalid(&self, section: &str, key: &str, allowed: &str) -> SettingsError {
        SettingsError::Invalid {
            setting: format!("{section}.{key}"),
            value: match &self.value {
                Value::String(text) => format!("{text:?}"),
                other => other.to_string().replace('\n', " "),
            },
            allowed: allowed.to_owned(),
            origin: self.origin.clone(),
        }
    }
}

impl fmt::Debug for Sourced {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.origin)
    }
}

/// The spellings of a truth value that people write into variables.
fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// An address, or a name that the system knows one for.
fn socket_address(text: &str) -> Option<SocketAddr> {
    text.to_socket_addrs().ok()?.next()
}

/// A token of RFC 9110, which a cookie's name must be.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_host(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
}

fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b";,\\\"".contains(&byte))
}

/// What Memcached takes before the 22 bytes of a record's name, and Redis takes in any case.
fn is_key_prefix(text: &str) -> bool {
    text.len() <= 100 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_origin(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
    })
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

    /// Each key with its variable, and its default as somebody would write it into that.
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
    fn blanks_around_any_variable_are_nothing_and_so_is_an_empty_one() {
        let defaults = format!("{:?}", with("", "").expect("the defaults"));
        for (name, text) in keys() {
            for text in [format!(" \t{text}\r\n"), String::new(), " \n".to_owned()] {
                let settings = with(&name, &text).expect(&name);
                assert_eq!(format!("{settings:?}"), defaults, "{name}={text:?}");
            }
        }
    }

    #[test]
    fn words_are_taken_in_any_case_and_names_for_addresses() {
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
    fn a_line_about_a_bad_value_shows_it_as_it_was_written() {
        let line = |name: &str, text: &str| with(name, text).expect_err("refused").to_string();
        let zero = line("SESSION_COOKIE_AGE", "0");
        assert!(
            zero.contains("is \"0\" in the environment variable SESSION_COOKIE_AGE"),
            "{zero}"
        );
        let large = line("SESSION_COOKIE_AGE", "999999999999999");
        assert!(
            large.contains("a whole number from 1 to 315360000000"),
            "{large}"
        );
        let several = line("SESSION_STORE", "memcached://a:1,b:2");
        assert!(several.contains("one Memcached server"), "{several}");
    }
}
