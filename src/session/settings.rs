//! How sessions behave: the settings of Leptos.toml's `[sessions]`, checked and typed.

use std::{fmt, path::PathBuf};

use super::flood::Rate;

/// The settings of the sessions. Their defaults and reasons stand in Leptos.toml.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Which engine keeps the records.
    pub store: StoreUrl,
    /// A record counts as saved when so many of Redis's replicas have it, too.
    pub store_replicas: u32,
    /// How long a session lives after its last write, in seconds; the cookie's Max-Age.
    pub cookie_age: u64,
    /// No Max-Age: the cookie goes when the browser closes.
    pub expire_at_browser_close: bool,
    pub cookie_name: String,
    /// Empty: no Domain.
    pub cookie_domain: String,
    pub cookie_path: String,
    pub cookie_secure: bool,
    pub cookie_http_only: bool,
    pub cookie_same_site: SameSite,
    /// Every answer below 500 to a visitor who has a session renews it.
    pub save_every_request: bool,
    /// How long a session lives that nobody writes, in seconds, if shorter than `cookie_age`.
    pub idle_age: Option<u64>,
    /// How long a session lives at the most, in seconds, however often it is written.
    pub absolute_age: Option<u64>,
    /// How long a session lives whose cookie has never come back, in seconds.
    pub unconfirmed_age: u64,
    /// So many open pages on one server are told of changes.
    pub live_pages: usize,
    /// How fast one address may make new sessions; `None`: no limit.
    pub new_sessions: Option<Rate>,
    /// What happens is written down for the operator's console.
    pub registers: bool,
}

#[cfg(test)]
impl SessionSettings {
    /// The defaults, in memory.
    pub fn for_tests() -> Self {
        Self {
            store: StoreUrl::Memory,
            store_replicas: 0,
            cookie_age: 1_209_600,
            expire_at_browser_close: false,
            cookie_name: "sessionid".to_owned(),
            cookie_domain: String::new(),
            cookie_path: "/".to_owned(),
            cookie_secure: false,
            cookie_http_only: true,
            cookie_same_site: SameSite::Lax,
            save_every_request: false,
            idle_age: None,
            absolute_age: None,
            unconfirmed_age: 600,
            live_pages: 100,
            new_sessions: None,
            registers: false,
        }
    }
}

/// With which requests of other sites the browser sends the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

impl fmt::Display for SameSite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// Which engine, and where it is. Its `Display` never shows a password.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A process-wide table, lost at exit.
    Memory,
    /// A folder.
    File(PathBuf),
    /// A file.
    Sqlite(PathBuf),
    /// A server, as host:port.
    Memcached(String),
    /// A Redis or Valkey, as fred reads its URL.
    Redis(String),
}

impl StoreUrl {
    /// What may be written, for the line that refuses something else.
    pub const ALLOWED: &'static str = "sqlite://PATH, memory:, redis://, rediss://, \
        redis-cluster://, redis-sentinel:// (and the valkey spellings), memcached://HOST:PORT, file://FOLDER";

    /// Reads a store's URL; `None` where no engine is of that kind.
    pub fn parse(text: &str) -> Option<Self> {
        if matches!(text, "memory:" | "memory://") {
            return Some(Self::Memory);
        }
        let (scheme, rest) = text.split_once("://")?;
        if rest.is_empty() {
            return None;
        }
        let scheme = scheme.replace("valkey", "redis");
        match scheme.as_str() {
            "file" => Some(Self::File(PathBuf::from(rest))),
            "memcached" => Some(Self::Memcached(host_and_port(rest)?)),
            "sqlite" => Some(Self::Sqlite(PathBuf::from(rest))),
            "redis" | "rediss" | "redis-cluster" | "rediss-cluster" | "redis-sentinel"
            | "rediss-sentinel" => {
                let url = format!("{scheme}://{rest}");
                fred::types::config::Config::from_url(&url).ok()?;
                Some(Self::Redis(url))
            }
            _ => None,
        }
    }
}

/// Memcached's own port where none is named.
fn host_and_port(text: &str) -> Option<String> {
    let url = url::Url::parse(&format!("memcached://{text}")).ok()?;
    let plain = url.username().is_empty() && matches!(url.path(), "" | "/");
    plain.then(|| {
        format!(
            "{}:{}",
            url.host_str().unwrap_or_default(),
            url.port().unwrap_or(11_211)
        )
    })
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => formatter.write_str("memory (nothing survives a restart)"),
            Self::File(folder) => write!(formatter, "files, {}", folder.display()),
            Self::Memcached(server) => write!(formatter, "Memcached, {server}"),
            Self::Sqlite(path) => write!(formatter, "SQLite, {}", path.display()),
            Self::Redis(url) => {
                let host = url.rsplit_once('@').map_or_else(
                    || url.split_once("://").map_or("", |(_, rest)| rest),
                    |(_, host)| host,
                );
                let host = host.split(['/', '?']).next().unwrap_or_default();
                write!(formatter, "Redis, {host}")
            }
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
