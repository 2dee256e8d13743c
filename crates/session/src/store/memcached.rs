//! A store in Memcached. It is fast, and several servers can share it. But it evicts records when its memory is full,
//! and loses all of them at a restart.

use std::{
    fmt, io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use memcache_async::ascii::Protocol;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{Diagnostics, EncodedRecord, Store, Swap, backend, decoded, encoded};

/// How long a command may take before it fails, and the request with status 503.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The most idle connections that are kept. There is no limit on connections in use.
const MAX_IDLE: usize = 16;

/// The key of a probe, after the prefix.
const PROBE: &str = "probe";

/// How long a probe lives, in seconds.
const PROBE_AGE: u32 = 1;

/// An expiry in the past, so that Memcached drops the record at once. Memcached takes a smaller number for seconds from
/// now.
const PAST: u32 = 2_592_001;

type Connection = Protocol<Either<TcpStream, UnixStream>>;

/// One Memcached server. A connection is not reused after a command that failed or was cancelled.
pub struct Memcached {
    server: String,
    /// The beginning of every key.
    prefix: String,
    idle: Mutex<Vec<Connection>>,
}

impl fmt::Debug for Memcached {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Memcached({})", self.server)
    }
}

/// Connects to a server, and queries its version to verify the connection.
///
/// # Errors
/// When the server can't be reached.
pub async fn open(server: &str, prefix: &str) -> io::Result<Memcached> {
    let store = Memcached {
        server: server.to_owned(),
        prefix: prefix.to_owned(),
        idle: Mutex::default(),
    };
    let mut connection = store.connection().await?;
    connection.version().await?;
    store.keep(connection);
    Ok(store)
}

/// The expiry as Memcached takes it: seconds since 1970. Relative expiries are limited to 30 days.
///
/// Memcached takes a time after January 2038 for one in the past. A record with such an expiry is stored without one.
fn expiration(record: &Record) -> u32 {
    let seconds = i32::try_from(record.expiry_date.unix_timestamp());
    seconds.map_or(0, |seconds| u32::try_from(seconds).unwrap_or(PAST))
}

impl Memcached {
    fn key(&self, id: &Id) -> String {
        format!("{}{id}", self.prefix)
    }

    async fn connection(&self) -> io::Result<Connection> {
        let idle = self.idle().pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        if self.server.starts_with('/') {
            let stream = UnixStream::connect(&self.server).await?;
            return Ok(Protocol::new(Either::Right(stream)));
        }
        let stream = TcpStream::connect(&self.server).await?;
        stream.set_nodelay(true)?;
        Ok(Protocol::new(Either::Left(stream)))
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs commands on a connection, which is kept only if all of them succeed. A failure also drops the idle
    /// connections, because the server has most likely been unreachable.
    async fn with<T>(
        &self,
        commands: impl AsyncFnOnce(&mut Connection) -> io::Result<T>,
    ) -> session_store::Result<T> {
        let work = async {
            let mut connection = self.connection().await?;
            let result = commands(&mut connection).await?;
            self.keep(connection);
            Ok::<_, io::Error>(result)
        };
        let result = match tokio::time::timeout(TIMEOUT, work).await {
            Ok(result) => result.map_err(backend),
            Err(_) => Err(backend(format!("no response in {TIMEOUT:?}"))),
        };
        if result.is_err() {
            self.idle().clear();
        }
        result
    }

    /// Replaces the record's bytes if they are still `old`'s.
    async fn replace(
        &self,
        old: &EncodedRecord,
        new: &[u8],
        expiration: u32,
    ) -> session_store::Result<bool> {
        let (key, old) = (self.key(&old.id), old.bytes()?);
        self.with(async |connection| {
            let found = ignore_miss(connection.gets_cas(&key).await)?;
            match found {
                Some((bytes, unique)) if bytes == old => {
                    ignore_not_found(connection.cas(&key, new, unique, expiration).await)
                }
                _ => Ok(false),
            }
        })
        .await
    }
}

/// Converts the client's error for a missing record to `None`.
fn ignore_miss<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Converts the error for a record that was deleted between `gets` and `cas` to `false`. The client does not know the
/// server's response `NOT_FOUND` to `cas`.
fn ignore_not_found(result: io::Result<bool>) -> io::Result<bool> {
    match result {
        Err(error) if error.to_string().starts_with("NOT_FOUND") => Ok(false),
        other => other,
    }
}

#[async_trait::async_trait]
impl SessionStore for Memcached {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let (key, bytes, expiration) = (self.key(&record.id), encoded(record)?, expiration(record));
        self.with(async |connection| connection.add(&key, &bytes, expiration).await)
            .await
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let (key, bytes, expiration) = (self.key(&record.id), encoded(record)?, expiration(record));
        self.with(async |connection| {
            connection.set(&key, &bytes, expiration).await?;
            // The client does not wait for the response to a set. The next response shows that it has been executed.
            connection.version().await.map(|_| ())
        })
        .await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let key = self.key(id);
        let bytes = self
            .with(async |connection| ignore_miss(connection.get(&key).await))
            .await?;
        bytes.map(|bytes| decoded(&bytes)).transpose()
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let key = self.key(id);
        self.with(async |connection| {
            connection.delete(&key).await?;
            connection.version().await.map(|_| ())
        })
        .await
    }
}

#[async_trait::async_trait]
impl Store for Memcached {
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap> {
        self.replace(old, new.bytes()?, expiration(new))
            .await
            .map(Swap::from)
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        self.replace(old, b"", PAST).await
    }

    fn diagnostics(&self) -> Option<&dyn Diagnostics> {
        Some(self)
    }
}

#[async_trait::async_trait]
impl Diagnostics for Memcached {
    async fn check_writable(&self) -> session_store::Result<()> {
        let key = format!("{}{PROBE}", self.prefix);
        self.with(
            async |connection| match connection.add(&key, b"", PROBE_AGE).await {
                // An earlier probe still exists.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            },
        )
        .await
    }

    async fn deploy_warnings(&self) -> session_store::Result<Vec<String>> {
        Ok(vec![
            "Memcached loses sessions when it is full or restarts; use redis:// or sqlite://"
                .to_owned(),
        ])
    }
}
