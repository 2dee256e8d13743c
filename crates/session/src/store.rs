//! The engines, one file each (Redis has a folder too, for saves that travel together and for what the
//! operator's console asks), and what
//! they add to tower-sessions' `SessionStore`.
//!
//! To add one: a file here that implements [`SessionStore`] and [`Store`], a variant of
//! [`StoreUrl`], and a line in [`open`].

#[cfg(feature = "file")]
mod file;
pub(crate) mod index;
pub(crate) mod instrumented;
#[cfg(feature = "memcached")]
mod memcached;
mod memory;
#[cfg(feature = "mysql")]
mod mysql;
mod outage;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
pub(crate) mod refusal;
mod single_server;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;
pub(crate) mod url;
mod users;
pub(crate) mod values;

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use thiserror::Error;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

pub use index::{
    Bucket, Counts, History, Resolution, SessionIndex, SessionScan, StatsBatch, StatsStore,
};
pub use refusal::Refusal;
pub use single_server::SingleServer;
pub use url::{StoreUrl, StoreUrlError};
pub use users::{UserEntry, UserIndex};
pub use values::Values;

/// How long one try to open a store may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The wait between two tries.
const OPEN_RETRY: Duration = Duration::from_millis(250);

/// What stands before keys that are shared with others.
const DEFAULT_PREFIX: &str = "tally:";

/// The table of the sessions, named as tower-sessions does in SQLite.
const DEFAULT_TABLE: &str = "tower_sessions";

/// Enough for a server of some cores: a connection is held for one statement at a time.
const DEFAULT_CONNECTIONS: u32 = 16;

/// Expired records are removed so many at a time, so that nobody waits long for the store.
const CLEAR_BATCH: u32 = 1_000;

/// A tower-sessions store that can also act on a condition. Without it the last writer wins: with 16 connections on
/// one session, 88 of 100 changes are lost.
///
/// Two methods make it one. What else an engine can do is a trait of its own, which it returns here.
#[async_trait::async_trait]
pub trait Store: SessionStore + fmt::Debug {
    /// Replaces the record if the stored one is still `old`. A record that has gone is not `old`: it stays dead.
    ///
    /// # Errors
    /// When the store did not respond. The swap may have happened.
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap>;

    /// Deletes the record if it is still `old`, and returns whether it did.
    ///
    /// # Errors
    /// When the store did not respond. The record may be gone.
    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool>;

    /// For engines that don't remove expired records by themselves.
    fn delete_expired(&self) -> Option<&dyn DeleteExpired> {
        None
    }

    /// For engines that tell of changes that any server makes. Without it servers know of their own alone.
    fn change_feed(&self) -> Option<&dyn ChangeFeed> {
        None
    }

    /// For engines that can list their sessions. These keep [`Store::values`] apart from the records.
    fn index(&self) -> Option<&dyn SessionIndex> {
        None
    }

    /// For engines that can find the sessions of a user.
    fn users(&self) -> Option<&dyn UserIndex> {
        None
    }

    /// For engines that keep small values apart from the sessions. Elsewhere each is a record.
    fn values(&self) -> Option<&dyn Values> {
        None
    }

    /// For engines that keep statistics of all servers.
    fn stats(&self) -> Option<&dyn StatsStore> {
        None
    }

    /// For engines that can tell how they are.
    fn diagnostics(&self) -> Option<&dyn Diagnostics> {
        None
    }

    /// Leaves the store tidy before the process ends.
    async fn close(&self) {}
}

/// Removes expired records.
#[async_trait::async_trait]
pub trait DeleteExpired: Send + Sync {
    /// Removes up to `limit` expired records and returns how many it removed.
    ///
    /// # Errors
    /// When the store fails.
    async fn delete_expired(&self, limit: u32) -> session_store::Result<u64>;
}

/// Tells of changes of sessions, whichever server makes them.
#[async_trait::async_trait]
pub trait ChangeFeed: Send + Sync {
    /// From now on [`ChangeFeed::next_event`] returns changes of this session.
    ///
    /// # Errors
    /// When the store does not respond.
    async fn subscribe(&self, id: &Id) -> session_store::Result<()>;

    /// From now on it does not.
    ///
    /// # Errors
    /// When the store does not respond.
    async fn unsubscribe(&self, id: &Id) -> session_store::Result<()>;

    /// Waits for the next change. One task calls it.
    async fn next_event(&self) -> ChangeEvent;
}

/// An event of a [`ChangeFeed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeEvent {
    /// This session was written or deleted.
    Changed(Id),
    /// The connection was away, or too much happened: any of them may have changed.
    Lagged,
}

/// Tells how an engine is.
#[async_trait::async_trait]
pub trait Diagnostics: Send + Sync {
    /// Writes something small that is no session, to see whether the store takes it.
    ///
    /// # Errors
    /// When it does not.
    async fn check_writable(&self) -> session_store::Result<()>;

    /// What is unsafe for production, a line each, as far as the engine can tell.
    ///
    /// # Errors
    /// When the store does not respond.
    async fn deploy_warnings(&self) -> session_store::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The size of the write-ahead log in bytes, where there is one.
    fn log_bytes(&self) -> Option<u64> {
        None
    }

    /// Whether there is a table, which opening the engine creates or updates.
    fn has_table(&self) -> bool {
        false
    }
}

/// A record, with the bytes that engines keep for it: made once, for each save is compared with
/// the one before.
#[derive(Clone, Debug)]
pub struct EncodedRecord {
    record: Record,
    bytes: OnceLock<Vec<u8>>,
}

impl EncodedRecord {
    /// The record that an engine has found.
    ///
    /// # Errors
    /// When the bytes hold no record.
    pub fn decode(bytes: Vec<u8>) -> session_store::Result<Self> {
        Ok(Self {
            record: decoded(&bytes)?,
            bytes: OnceLock::from(bytes),
        })
    }

    /// The same as tower-sessions' own stores write.
    ///
    /// # Errors
    /// When the record can't be encoded.
    pub fn bytes(&self) -> session_store::Result<&[u8]> {
        if let Some(bytes) = self.bytes.get() {
            return Ok(bytes);
        }
        let bytes = encoded(&self.record)?;
        Ok(self.bytes.get_or_init(|| bytes))
    }
}

impl EncodedRecord {
    /// How many bytes an engine keeps, where that is known already.
    pub(crate) fn size(&self) -> usize {
        self.bytes.get().map_or(0, Vec::len)
    }
}

impl From<Record> for EncodedRecord {
    fn from(record: Record) -> Self {
        Self {
            record,
            bytes: OnceLock::new(),
        }
    }
}

impl Deref for EncodedRecord {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

/// What became of [`Store::compare_and_swap`].
#[derive(Clone, Debug)]
pub enum Swap {
    /// The new record is stored.
    Saved,
    /// The stored record was another one: this one, where the engine returns it along.
    Conflict(Option<EncodedRecord>),
}

impl From<bool> for Swap {
    fn from(saved: bool) -> Self {
        if saved {
            Self::Saved
        } else {
            Self::Conflict(None)
        }
    }
}

/// The store can't be opened, in one line without its password.
#[derive(Debug, Error)]
#[error("the session store ({store}) can't be reached: {reason}")]
pub struct StoreError {
    store: StoreUrl,
    reason: String,
}

/// How an engine is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub url: StoreUrl,
    /// What is saved counts as saved when so many replicas have it, too; Redis alone has any.
    pub replicas: u32,
    /// Before every key, where the engine shares its keys with others: Redis and Memcached.
    pub prefix: String,
    /// The name of the table, or a schema's and a table's with a dot between; for PostgreSQL and MySQL.
    pub table: String,
    /// The most connections that this server opens to PostgreSQL or MySQL. With PostgreSQL one more listens.
    pub connections: u32,
}

impl StoreOptions {
    /// What a table may be named, for the line that refuses something else.
    pub const ALLOWED_TABLE: &'static str = "a table's name, or a schema's and a table's with a dot between: up to 40 letters, digits and _ each";

    /// Whether a table may have this name.
    pub fn is_table(name: &str) -> bool {
        let is_name = |name: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            (1..=40).contains(&name.len()) && name.bytes().all(known)
        };
        name.split('.').count() <= 2 && name.split('.').all(is_name)
    }

    /// This engine, alone on what keeps it.
    pub fn new(url: StoreUrl) -> Self {
        Self {
            url,
            replicas: 0,
            prefix: DEFAULT_PREFIX.to_owned(),
            table: DEFAULT_TABLE.to_owned(),
            connections: DEFAULT_CONNECTIONS,
        }
    }
}

/// Whether this is the URL of a Redis.
#[cfg(feature = "redis")]
fn check_redis(url: &str) -> bool {
    redis::config(url).is_ok()
}

#[cfg(not(feature = "redis"))]
fn check_redis(url: &str) -> bool {
    ::url::Url::parse(url).is_ok()
}

/// Where a Redis is, and which database of it, without the password.
#[cfg(feature = "redis")]
fn describe_redis(url: &str) -> String {
    redis::config(url).map_or_else(|_| "unknown".to_owned(), |config| redis::describe(&config))
}

#[cfg(not(feature = "redis"))]
fn describe_redis(_url: &str) -> String {
    "unknown".to_owned()
}

/// Whether this is the URL of a PostgreSQL.
#[cfg(feature = "postgres")]
fn check_postgres(url: &str) -> bool {
    postgres::options(url).is_ok()
}

#[cfg(not(feature = "postgres"))]
fn check_postgres(url: &str) -> bool {
    ::url::Url::parse(url).is_ok()
}

/// Where a PostgreSQL is, and which database of it, without the password.
#[cfg(feature = "postgres")]
fn describe_postgres(url: &str) -> String {
    postgres::options(url).map_or_else(
        |_| "unknown".to_owned(),
        |options| postgres::describe(&options),
    )
}

#[cfg(not(feature = "postgres"))]
fn describe_postgres(_url: &str) -> String {
    "unknown".to_owned()
}

/// Whether this is the URL of a MySQL.
#[cfg(feature = "mysql")]
fn check_mysql(url: &str) -> bool {
    mysql::options(url).is_ok()
}

#[cfg(not(feature = "mysql"))]
fn check_mysql(url: &str) -> bool {
    ::url::Url::parse(url).is_ok()
}

/// Where a MySQL is, and which database of it, without the password.
#[cfg(feature = "mysql")]
fn describe_mysql(url: &str) -> String {
    mysql::options(url).map_or_else(
        |_| "unknown".to_owned(),
        |options| mysql::describe(&options),
    )
}

#[cfg(not(feature = "mysql"))]
fn describe_mysql(_url: &str) -> String {
    "unknown".to_owned()
}

/// Opens the engine that the options name and makes sure that it answers.
///
/// # Errors
/// When it does not.
pub async fn open(options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    let opening = async {
        let store: Arc<dyn Store> = match &options.url {
            StoreUrl::Memory => Arc::new(memory::Memory::default()),
            #[cfg(feature = "file")]
            StoreUrl::File(folder) => Arc::new(file::open(folder).map_err(reason)?),
            #[cfg(feature = "sqlite")]
            StoreUrl::Sqlite(path) => Arc::new(sqlite::open(path).await.map_err(reason)?),
            #[cfg(feature = "memcached")]
            StoreUrl::Memcached(server) => {
                let memcached = memcached::open(server, &options.prefix).await;
                Arc::new(memcached.map_err(reason)?)
            }
            #[cfg(any(feature = "mysql", feature = "postgres"))]
            StoreUrl::MySql(_) | StoreUrl::Postgres(_)
                if !StoreOptions::is_table(&options.table) =>
            {
                return Err(format!(
                    "{:?} is not {}",
                    options.table,
                    StoreOptions::ALLOWED_TABLE
                ));
            }
            #[cfg(feature = "postgres")]
            StoreUrl::Postgres(url) => {
                let opened = postgres::open(url, &options.table, options.connections).await;
                Arc::new(opened.map_err(|error| sql::connections::plain(&error))?)
            }
            #[cfg(feature = "mysql")]
            StoreUrl::MySql(url) => {
                let opened = mysql::open(url, &options.table, options.connections).await;
                Arc::new(opened.map_err(|error| sql::connections::plain(&error))?)
            }
            #[cfg(feature = "redis")]
            StoreUrl::Redis(url) => {
                let redis = redis::open(url, options.replicas, &options.prefix).await;
                Arc::new(redis.map_err(|error| redis::plain(&error))?)
            }
            #[allow(unreachable_patterns, reason = "every engine may be there")]
            other => {
                let feature = other.feature();
                return Err(format!(
                    "this program was built without tally-session's feature {feature}"
                ));
            }
        };
        Ok(store)
    };
    let opened = tokio::time::timeout(OPEN_TIMEOUT, opening)
        .await
        .unwrap_or_else(|_| Err(format!("no answer in {OPEN_TIMEOUT:?}")));
    opened.map_err(|reason| StoreError {
        store: options.url.clone(),
        reason,
    })
}

/// The same, tried again for as long as `patience`: whatever starts a site need not start its store first.
/// `waits` is told the first failure.
///
/// # Errors
/// The last failure.
pub async fn open_patiently(
    options: &StoreOptions,
    patience: Duration,
    waits: impl FnOnce(&StoreError),
) -> Result<Arc<dyn Store>, StoreError> {
    let give_up = Instant::now() + patience;
    let mut waits = Some(waits);
    loop {
        match open(options).await {
            // A file that can't be opened now can't be in a moment.
            Err(error) if options.url.is_a_server() && Instant::now() + OPEN_RETRY < give_up => {
                if let Some(waits) = waits.take() {
                    waits(&error);
                }
                tokio::time::sleep(OPEN_RETRY).await;
            }
            other => return other,
        }
    }
}

/// Removes expired records until a batch is not full, and returns how many went.
///
/// # Errors
/// When the store fails.
pub(crate) async fn clear_expired(
    store: &dyn Store,
    mut progress: impl FnMut(u64),
) -> session_store::Result<u64> {
    let mut cleared = 0;
    let Some(expired) = store.delete_expired() else {
        return Ok(cleared);
    };
    loop {
        let batch = expired.delete_expired(CLEAR_BATCH).await?;
        cleared += batch;
        progress(cleared);
        if batch < u64::from(CLEAR_BATCH) {
            return Ok(cleared);
        }
    }
}

/// A reason for [`StoreError`], in one line.
#[cfg(any(feature = "file", feature = "memcached", feature = "sqlite"))]
fn reason(error: impl fmt::Display) -> String {
    error.to_string().replace('\n', " ")
}

/// The bytes that engines keep for a record: the same as tower-sessions' own stores write.
fn encoded(record: &Record) -> session_store::Result<Vec<u8>> {
    rmp_serde::to_vec(record).map_err(|error| session_store::Error::Encode(error.to_string()))
}

/// The record that those bytes hold.
fn decoded(bytes: &[u8]) -> session_store::Result<Record> {
    rmp_serde::from_slice(bytes).map_err(|error| session_store::Error::Decode(error.to_string()))
}

/// An engine's own error, as tower-sessions passes it on.
#[cfg(any(
    feature = "file",
    feature = "memcached",
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "sqlite"
))]
fn backend(error: impl fmt::Display) -> session_store::Error {
    session_store::Error::Backend(error.to_string())
}
