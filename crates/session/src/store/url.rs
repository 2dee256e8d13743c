//! The URL of a session store.

use std::{fmt, path::PathBuf, str::FromStr};

use thiserror::Error;

/// The engine of a session store, and its address. `Display` and `Debug` never show a password.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// The memory of this process. Nothing survives a restart.
    Memory,
    /// A folder of files, one for each session.
    File(PathBuf),
    /// The file of a SQLite database.
    Sqlite(PathBuf),
    /// A Memcached server: `host:port`, or the path of its socket.
    Memcached(String),
    /// The URL of a database in MySQL or MariaDB.
    MySql(String),
    /// The URL of a database in PostgreSQL, in the format of libpq.
    Postgres(String),
    /// The URL of a Redis or Valkey server, in the format of fred.
    Redis(String),
}

impl StoreUrl {
    /// The valid URLs, for error messages.
    pub const ALLOWED: &'static str = "sqlite://PATH, memory:, redis://, rediss://, redis+unix://PATH, \
        redis-cluster://, redis-sentinel:// (or valkey in place of redis), postgres://, mysql://HOST/DATABASE, \
        mariadb://HOST/DATABASE, memcached://HOST:PORT or memcached:///SOCKET, file://FOLDER";

    /// The error message for a URL of several Memcached servers.
    const ONE_MEMCACHED: &'static str = "one Memcached server, because sessions can't be spread over \
        several; use redis:// for more than one machine";

    /// Whether the store is a separate server, which may start later than this one.
    pub fn is_a_server(&self) -> bool {
        matches!(
            self,
            Self::Redis(_) | Self::Memcached(_) | Self::MySql(_) | Self::Postgres(_)
        )
    }

    /// Parses the URL of a store.
    ///
    /// # Errors
    /// A description of the valid URLs.
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
                if super::check_redis(&url) {
                    Ok(Self::Redis(url))
                } else {
                    Err(Self::ALLOWED)
                }
            }
            "mysql" | "mariadb" => {
                if super::check_mysql(text) {
                    Ok(Self::MySql(text.to_owned()))
                } else {
                    Err(Self::ALLOWED)
                }
            }
            "postgres" | "postgresql" => {
                if super::check_postgres(text) {
                    Ok(Self::Postgres(text.to_owned()))
                } else {
                    Err(Self::ALLOWED)
                }
            }
            _ => Err(Self::ALLOWED),
        }
    }
}

/// Parses the address of a Memcached server: the path of a socket, or a host with an optional port.
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

impl StoreUrl {
    /// The feature of this crate that contains the engine.
    pub(super) fn feature(&self) -> &'static str {
        match self {
            Self::Memory => "none",
            Self::File(_) => "file",
            Self::Sqlite(_) => "sqlite",
            Self::Memcached(_) => "memcached",
            Self::MySql(_) => "mysql",
            Self::Postgres(_) => "postgres",
            Self::Redis(_) => "redis",
        }
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        Self::parse(text).map_err(StoreUrlError)
    }
}

/// The error for a text that is not a store's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a store's URL; allowed: {0}")]
pub struct StoreUrlError(&'static str);

impl fmt::Display for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => formatter.write_str("memory (nothing survives a restart)"),
            Self::File(folder) => write!(formatter, "files, {}", folder.display()),
            Self::Memcached(server) => write!(formatter, "Memcached, {server}"),
            Self::Sqlite(path) => write!(formatter, "SQLite, {}", path.display()),
            Self::MySql(url) => write!(formatter, "MySQL, {}", super::describe_mysql(url)),
            Self::Postgres(url) => {
                write!(formatter, "PostgreSQL, {}", super::describe_postgres(url))
            }
            Self::Redis(url) => write!(formatter, "Redis, {}", super::describe_redis(url)),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
