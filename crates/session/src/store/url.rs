//! Which engine keeps the records, as a URL says.

use std::{fmt, path::PathBuf, str::FromStr};

use thiserror::Error;

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
    /// A MySQL or MariaDB, with its database.
    MySql(String),
    /// A PostgreSQL, as libpq reads its URL.
    Postgres(String),
    /// A Redis or Valkey, as fred reads its URL.
    Redis(String),
}

impl StoreUrl {
    /// What may be written, for the line that refuses something else.
    pub const ALLOWED: &'static str = "sqlite://PATH, memory:, redis://, rediss://, redis+unix://PATH, \
        redis-cluster://, redis-sentinel:// (and the valkey spellings), postgres://, mysql://HOST/DATABASE, \
        mariadb://HOST/DATABASE, memcached://HOST:PORT or memcached:///SOCKET, file://FOLDER";

    /// What may be written where several Memcached servers are.
    const ONE_MEMCACHED: &'static str = "one Memcached server: sessions are not spread over several; for more than one machine use redis://";

    /// Whether the engine is a server of its own, which may start later than this one.
    pub fn is_a_server(&self) -> bool {
        matches!(
            self,
            Self::Redis(_) | Self::Memcached(_) | Self::MySql(_) | Self::Postgres(_)
        )
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

impl StoreUrl {
    /// The feature of this crate that has the engine.
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

/// Not a store's URL.
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
