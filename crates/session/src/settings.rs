//! How sessions behave: the settings of Leptos.toml's `[sessions]`, checked and typed.

use std::{fmt, path::PathBuf};

use super::{
    flood::Rate,
    store::{self, StoreOptions},
};

/// The settings of the sessions. Their defaults and reasons stand in Leptos.toml.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Which engine keeps the records, and how.
    pub store: StoreOptions,
    /// How long a session lives after its last write, in seconds; the cookie's Max-Age.
    pub cookie_age: u64,
    /// No Max-Age: the cookie goes when the browser closes.
    pub expire_at_browser_close: bool,
    pub cookie_name: String,
    /// Empty: no Domain.
    pub cookie_domain: String,
    pub cookie_path: String,
    pub cookie_secure: CookieSecure,
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
            store: StoreOptions::new(StoreUrl::Memory),
            cookie_age: 1_209_600,
            expire_at_browser_close: false,
            cookie_name: "sessionid".to_owned(),
            cookie_domain: String::new(),
            cookie_path: "/".to_owned(),
            cookie_secure: CookieSecure::WhereHttps,
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

/// Whether browsers may send the cookie by https alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieSecure {
    Always,
    Never,
    /// On this machine, where a trusted proxy says so.
    WhereHttps,
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
    /// A server, as host:port, or the path of its socket.
    Memcached(String),
    /// A Redis or Valkey, as fred reads its URL.
    Redis(String),
}

impl StoreUrl {
    /// What may be written, for the line that refuses something else.
    pub const ALLOWED: &'static str = "sqlite://PATH, memory:, redis://, rediss://, redis+unix://PATH, \
        redis-cluster://, redis-sentinel:// (and the valkey spellings), memcached://HOST:PORT or \
        memcached:///SOCKET, file://FOLDER";

    /// What may be written where several Memcached servers are.
    const ONE_MEMCACHED: &'static str = "one Memcached server: sessions are not spread over several; for more than one machine use redis://";

    /// Whether the engine is a server of its own, which may start later than this one.
    pub fn is_a_server(&self) -> bool {
        matches!(self, Self::Redis(_) | Self::Memcached(_))
    }

    /// Reads a store's URL.
    ///
    /// # Errors
    /// What is allowed instead.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if matches!(text, "memory:" | "memory://") {
            return Ok(Self::Memory);
        }
        let (scheme, rest) = text.split_once("://").ok_or(Self::ALLOWED)?;
        if rest.is_empty() {
            return Err(Self::ALLOWED);
        }
        let scheme = scheme.replace("valkey", "redis");
        match scheme.as_str() {
            "file" => Ok(Self::File(PathBuf::from(rest))),
            "memcached" if rest.contains(',') => Err(Self::ONE_MEMCACHED),
            "memcached" => memcached_server(rest)
                .map(Self::Memcached)
                .ok_or(Self::ALLOWED),
            "sqlite" => Ok(Self::Sqlite(PathBuf::from(rest))),
            "redis" | "rediss" | "redis-cluster" | "rediss-cluster" | "redis-sentinel"
            | "rediss-sentinel" | "redis+unix" => {
                let url = format!("{scheme}://{rest}");
                store::check_redis(&url).map_err(|_| Self::ALLOWED)?;
                Ok(Self::Redis(url))
            }
            _ => Err(Self::ALLOWED),
        }
    }
}

/// The path of a socket, or a host and a port: Memcached's own where none is named.
fn memcached_server(text: &str) -> Option<String> {
    let url = url::Url::parse(&format!("memcached://{text}")).ok()?;
    if text.starts_with('/') {
        return Some(text.to_owned());
    }
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
            Self::Redis(url) => write!(formatter, "Redis, {}", store::describe_redis(url)),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
