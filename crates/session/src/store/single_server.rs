//! A wrapper that lets a single server use any store of tower-sessions.

use std::fmt;

use tokio::sync::{Mutex, MutexGuard};
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{EncodedRecord, Store, Swap};

/// The number of locks. The lowest byte of a session's id selects its lock, so two sessions seldom share one.
const LOCKS: usize = 256;

/// A [`Store`] from any store of tower-sessions, for a single server.
///
/// A lock in this process makes compare-and-swap atomic. So no update is lost as long as only one server uses the
/// store. Several servers need a store that implements [`Store`] itself.
///
/// ```
/// use std::sync::Arc;
/// use tally_session::{Config, Map, SessionManager, store::SingleServer};
/// use tower_sessions::MemoryStore;
///
/// # fn open() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(SingleServer::new(MemoryStore::default()));
/// let sessions = SessionManager::<Map>::new(store, Config::default())?;
/// # Ok(())
/// # }
/// ```
pub struct SingleServer<T> {
    store: T,
    locks: [Mutex<()>; LOCKS],
}

impl<T> SingleServer<T> {
    /// Wraps a store.
    pub fn new(store: T) -> Self {
        Self {
            store,
            locks: [const { Mutex::const_new(()) }; LOCKS],
        }
    }

    async fn lock(&self, id: &Id) -> MutexGuard<'_, ()> {
        let index = usize::from(id.0.to_le_bytes()[0]);
        self.locks[index % LOCKS].lock().await
    }
}

impl<T: fmt::Debug> fmt::Debug for SingleServer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SingleServer({:?})", self.store)
    }
}

#[async_trait::async_trait]
impl<T: SessionStore> SessionStore for SingleServer<T> {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let _lock = self.lock(&record.id).await;
        self.store.create(record).await
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let _lock = self.lock(&record.id).await;
        self.store.save(record).await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        self.store.load(id).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let _lock = self.lock(id).await;
        self.store.delete(id).await
    }
}

#[async_trait::async_trait]
impl<T: SessionStore + fmt::Debug> Store for SingleServer<T> {
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap> {
        let _lock = self.lock(&old.id).await;
        let now = self.store.load(&old.id).await?;
        if now.as_ref() != Some(&**old) {
            return Ok(Swap::Conflict(now.map(EncodedRecord::from)));
        }
        self.store.save(new).await?;
        Ok(Swap::Saved)
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        let _lock = self.lock(&old.id).await;
        if self.store.load(&old.id).await?.as_ref() != Some(&**old) {
            return Ok(false);
        }
        self.store.delete(&old.id).await?;
        Ok(true)
    }
}
