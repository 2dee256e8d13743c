//! Memory: for trying out and for tests. Nothing survives a restart, and no other server sees it.

use tokio::sync::Mutex;
use tower_sessions::{
    MemoryStore, SessionStore,
    session::{Id, Record},
    session_store,
};

use super::Store;

/// tower-sessions' own memory store, with a lock that makes comparing and saving one step.
#[derive(Debug, Default)]
pub struct Memory {
    records: MemoryStore,
    writing: Mutex<()>,
}

#[async_trait::async_trait]
impl SessionStore for Memory {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let _writing = self.writing.lock().await;
        self.records.create(record).await
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let _writing = self.writing.lock().await;
        self.records.save(record).await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        self.records.load(id).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let _writing = self.writing.lock().await;
        self.records.delete(id).await
    }
}

#[async_trait::async_trait]
impl Store for Memory {
    async fn compare_and_save(&self, old: &Record, new: &Record) -> session_store::Result<bool> {
        let _writing = self.writing.lock().await;
        if self.records.load(&old.id).await?.as_ref() != Some(old) {
            return Ok(false);
        }
        self.records.save(new).await?;
        Ok(true)
    }
}
