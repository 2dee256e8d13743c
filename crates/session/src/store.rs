//! The engines, one file each (Redis has a folder too, for saves that travel together and for what the
//! operator's console asks), and what
//! they add to tower-sessions' `SessionStore`.
//!
//! To add one: a file here that implements [`SessionStore`] and [`Store`], a variant of
//! [`StoreUrl`], and a line in [`open`].

pub mod census;
mod file;
pub mod instrumented;
mod memcached;
mod memory;
mod outage;
mod redis;
pub mod refusal;
mod sqlite;
pub mod url;

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

use census::{Census, Ledger};
use url::StoreUrl;

/// How long one try to open a store may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The wait between two tries.
const OPEN_RETRY: Duration = Duration::from_millis(250);

/// What stands before keys that are shared with others.
const DEFAULT_PREFIX: &str = "tally:";

/// Expired records are removed so many at a time, so that nobody waits long for the store.
pub const CLEAR_BATCH: u32 = 1_000;

/// A tower-sessions store that can also act on a condition. Without it the last writer wins:
/// with 16 connections on one session, 88 of 100 visits are lost.
#[async_trait::async_trait]
pub trait Store: SessionStore + fmt::Debug {
    /// Saves `new` if the stored record is still `old`, and says whether it did. A record that has
    /// gone is not `old`: it stays dead.
    ///
    /// # Errors
    /// When the store did not answer; the save may have happened.
    async fn compare_and_save(&self, old: &Kept, new: &Kept) -> session_store::Result<Saved>;

    /// Deletes the record if it is still `old`, and says whether it did.
    ///
    /// # Errors
    /// When the store did not answer; the record may be gone.
    async fn compare_and_delete(&self, old: &Kept) -> session_store::Result<bool>;

    /// Removes up to `limit` expired records and says how many. Engines that do so by themselves
    /// keep this.
    ///
    /// # Errors
    /// When the store fails.
    async fn clear_expired(&self, _limit: u32) -> session_store::Result<u64> {
        Ok(0)
    }

    /// Whether the engine has a table that `migrate` creates or updates; opening it does the same.
    fn has_table(&self) -> bool {
        false
    }

    /// Whether the engine tells of changes that any server makes, by [`Store::heard`]. Else servers
    /// know of their own alone.
    fn tells(&self) -> bool {
        false
    }

    /// From now on changes of this session are heard.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn follow(&self, _id: &Id) -> session_store::Result<()> {
        Ok(())
    }

    /// From now on they are not.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn leave(&self, _id: &Id) -> session_store::Result<()> {
        Ok(())
    }

    /// Waits for the next change of a followed session.
    async fn heard(&self) -> Heard {
        std::future::pending().await
    }

    /// The engine's list of its sessions, where it has one.
    fn census(&self) -> Option<&dyn Census> {
        None
    }

    /// What the engine keeps of what happened lately, on all servers, where it does.
    fn ledger(&self) -> Option<&dyn Ledger> {
        None
    }

    /// Writes something small that is no session, to see whether the store takes it.
    ///
    /// # Errors
    /// When it does not.
    async fn check_writable(&self) -> session_store::Result<()>;

    /// The size of the engine's write-ahead log in bytes, where it has one.
    fn log_bytes(&self) -> Option<u64> {
        None
    }

    /// Leaves the store tidy before the process ends.
    async fn close(&self) {}

    /// What is unsafe for production, a line each, as far as the engine can tell.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn deploy_warnings(&self) -> session_store::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// A record, with the bytes that engines keep for it: made once, for each save is compared with
/// the one before.
#[derive(Clone, Debug)]
pub struct Kept {
    record: Record,
    bytes: OnceLock<Vec<u8>>,
}

impl Kept {
    /// What an engine has found.
    ///
    /// # Errors
    /// When the bytes hold no record.
    fn of(bytes: Vec<u8>) -> session_store::Result<Self> {
        Ok(Self {
            record: decoded(&bytes)?,
            bytes: OnceLock::from(bytes),
        })
    }

    /// The same as tower-sessions' own stores write.
    ///
    /// # Errors
    /// When the record can't be encoded.
    fn bytes(&self) -> session_store::Result<&[u8]> {
        if let Some(bytes) = self.bytes.get() {
            return Ok(bytes);
        }
        let bytes = encoded(&self.record)?;
        Ok(self.bytes.get_or_init(|| bytes))
    }
}

impl Kept {
    /// How many bytes an engine keeps, where that is known already.
    pub fn size(&self) -> usize {
        self.bytes.get().map_or(0, Vec::len)
    }
}

impl From<Record> for Kept {
    fn from(record: Record) -> Self {
        Self {
            record,
            bytes: OnceLock::new(),
        }
    }
}

impl Deref for Kept {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

/// What became of a conditional save.
#[derive(Clone, Debug)]
pub enum Saved {
    Yes,
    /// The stored record was another one: this one, where the engine tells it along.
    No(Option<Kept>),
}

impl From<bool> for Saved {
    fn from(saved: bool) -> Self {
        if saved { Self::Yes } else { Self::No(None) }
    }
}

/// What an engine tells of followed sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// This one was written or deleted.
    Change(Id),
    /// The connection was away, or too much happened: any of them may have changed.
    Missed,
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
}

impl StoreOptions {
    /// This engine, alone on what keeps it.
    pub fn new(url: StoreUrl) -> Self {
        Self {
            url,
            replicas: 0,
            prefix: DEFAULT_PREFIX.to_owned(),
        }
    }
}

/// Whether this is the URL of a Redis.
///
/// # Errors
/// When it is not.
pub fn check_redis(url: &str) -> Result<(), String> {
    redis::config(url)
        .map(|_| ())
        .map_err(|error| redis::plain(&error))
}

/// Where a Redis is, and which database of it, without the password.
pub fn describe_redis(url: &str) -> String {
    redis::config(url).map_or_else(|_| "unknown".to_owned(), |config| redis::describe(&config))
}

/// Opens the engine that the options name and makes sure that it answers.
///
/// # Errors
/// When it does not.
pub async fn open(options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    let prefix = &options.prefix;
    let opening = async {
        let store: Arc<dyn Store> = match &options.url {
            StoreUrl::Memory => Arc::new(memory::Memory::default()),
            StoreUrl::File(folder) => Arc::new(file::open(folder).map_err(reason)?),
            StoreUrl::Sqlite(path) => Arc::new(sqlite::open(path).await.map_err(reason)?),
            StoreUrl::Memcached(server) => {
                Arc::new(memcached::open(server, prefix).await.map_err(reason)?)
            }
            StoreUrl::Redis(url) => {
                let redis = redis::open(url, options.replicas, prefix).await;
                Arc::new(redis.map_err(|error| redis::plain(&error))?)
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
pub async fn clear_expired(
    store: &dyn Store,
    mut progress: impl FnMut(u64),
) -> session_store::Result<u64> {
    let mut cleared = 0;
    loop {
        let batch = store.clear_expired(CLEAR_BATCH).await?;
        cleared += batch;
        progress(cleared);
        if batch < u64::from(CLEAR_BATCH) {
            return Ok(cleared);
        }
    }
}

/// A reason for [`StoreError`], in one line.
fn reason(error: impl fmt::Display) -> String {
    error.to_string().replace('\n', " ")
}

/// The bytes that the engines keep for a record: the same as tower-sessions' own stores write.
fn encoded(record: &Record) -> session_store::Result<Vec<u8>> {
    rmp_serde::to_vec(record).map_err(|error| session_store::Error::Encode(error.to_string()))
}

/// The record that those bytes hold.
fn decoded(bytes: &[u8]) -> session_store::Result<Record> {
    rmp_serde::from_slice(bytes).map_err(|error| session_store::Error::Decode(error.to_string()))
}

/// An engine's own error, as tower-sessions passes it on.
fn backend(error: impl fmt::Display) -> session_store::Error {
    session_store::Error::Backend(error.to_string())
}
