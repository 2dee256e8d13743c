//! How sessions behave: the settings of Leptos.toml's `[sessions]`, checked and typed.

use std::{fmt, path::PathBuf};

/// The settings of the sessions. Their defaults and reasons stand in Leptos.toml.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Which engine keeps the records.
    pub store: StoreUrl,
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
    /// How long a session lives whose cookie has never come back, in seconds.
    pub unconfirmed_age: u64,
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
    /// A file.
    Sqlite(PathBuf),
    /// A Redis or Valkey, as fred reads its URL.
    Redis(String),
}

impl StoreUrl {
    /// What may be written, for the line that refuses something else.
    pub const ALLOWED: &'static str = "sqlite://PATH, memory:, redis://, rediss://, \
        redis-cluster://, redis-sentinel:// (and the valkey spellings)";

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

impl fmt::Display for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => formatter.write_str("memory (nothing survives a restart)"),
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
