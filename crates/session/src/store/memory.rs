//! Memory: for trying out and for tests. Nothing survives a restart, and no other server sees it.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use time::OffsetDateTime;
use tokio::sync::{Mutex, MutexGuard};
use tower_sessions::{
    MemoryStore, SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{
    DeleteExpired, Diagnostics, EncodedRecord, Store, Swap,
    index::{Predicate, SessionIndex},
};
use crate::operator_account;

/// tower-sessions' own memory store, with a lock that makes comparing and saving one step, and an
/// order by expiry, by which expired records are found.
#[derive(Debug, Default)]
pub struct Memory {
    records: MemoryStore,
    order: Mutex<Order>,
}

/// Which record expires when, both ways. Its lock is held while a record is written.
#[derive(Debug, Default)]
struct Order {
    expiry: HashMap<Id, OffsetDateTime>,
    records: BTreeMap<(OffsetDateTime, i128), Id>,
}

impl Order {
    fn insert(&mut self, record: &Record) {
        self.remove(&record.id);
        self.expiry.insert(record.id, record.expiry_date);
        let key = (record.expiry_date, record.id.0);
        self.records.insert(key, record.id);
    }

    fn remove(&mut self, id: &Id) {
        if let Some(expiry) = self.expiry.remove(id) {
            self.records.remove(&(expiry, id.0));
        }
    }

    /// The sessions, those that live the longest first.
    fn sessions(&self) -> impl Iterator<Item = Id> {
        let ids = self.records.values().rev().copied();
        ids.filter(|id| *id != operator_account::ID)
    }

    fn next_expired(&self) -> Option<Id> {
        let ((expiry, _), id) = self.records.first_key_value()?;
        (*expiry <= OffsetDateTime::now_utc()).then_some(*id)
    }
}

impl Memory {
    /// The lock, if the stored record is still `old`.
    async fn lock_if(&self, old: &Record) -> session_store::Result<Option<MutexGuard<'_, Order>>> {
        let order = self.order.lock().await;
        let same = self.records.load(&old.id).await?.as_ref() == Some(old);
        Ok(same.then_some(order))
    }
}

#[async_trait::async_trait]
impl SessionStore for Memory {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let mut order = self.order.lock().await;
        self.records.create(record).await?;
        order.insert(record);
        Ok(())
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let mut order = self.order.lock().await;
        self.records.save(record).await?;
        order.insert(record);
        Ok(())
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        self.records.load(id).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let mut order = self.order.lock().await;
        order.remove(id);
        self.records.delete(id).await
    }
}

#[async_trait::async_trait]
impl Store for Memory {
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap> {
        let Some(mut order) = self.lock_if(old).await? else {
            return Ok(Swap::Conflict(None));
        };
        self.records.save(new).await?;
        order.insert(new);
        Ok(Swap::Saved)
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        let Some(mut order) = self.lock_if(old).await? else {
            return Ok(false);
        };
        order.remove(&old.id);
        self.records.delete(&old.id).await?;
        Ok(true)
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        Some(self)
    }

    fn delete_expired(&self) -> Option<&dyn DeleteExpired> {
        Some(self)
    }

    fn diagnostics(&self) -> Option<&dyn Diagnostics> {
        Some(self)
    }
}

#[async_trait::async_trait]
impl DeleteExpired for Memory {
    async fn delete_expired(&self, limit: u32) -> session_store::Result<u64> {
        let mut order = self.order.lock().await;
        let mut cleared = 0;
        while cleared < u64::from(limit)
            && let Some(id) = order.next_expired()
        {
            order.remove(&id);
            self.records.delete(&id).await?;
            cleared += 1;
        }
        Ok(cleared)
    }
}

#[async_trait::async_trait]
impl Diagnostics for Memory {
    async fn check_writable(&self) -> session_store::Result<()> {
        Ok(())
    }

    async fn deploy_warnings(&self) -> session_store::Result<Vec<String>> {
        Ok(vec![
            "the memory engine forgets every session at a restart; use redis:// or sqlite://"
                .to_owned(),
        ])
    }
}

impl Memory {
    /// The records of these sessions, without those that have ended meanwhile.
    async fn records_of(&self, ids: Vec<Id>) -> session_store::Result<Vec<Record>> {
        let mut records = Vec::new();
        for id in ids {
            records.extend(self.records.load(&id).await?);
        }
        Ok(records)
    }
}

#[async_trait::async_trait]
impl SessionIndex for Memory {
    async fn count(&self) -> session_store::Result<u64> {
        let order = self.order.lock().await;
        let alive = (OffsetDateTime::now_utc(), i128::MAX);
        let alive = order
            .records
            .range((Bound::Excluded(alive), Bound::Unbounded));
        Ok(alive.filter(|(_, id)| **id != operator_account::ID).count() as u64)
    }

    async fn page(&self, skip: u64, take: u32) -> session_store::Result<Vec<Record>> {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let ids = {
            let order = self.order.lock().await;
            let ids = order.sessions().skip(skip).take(take as usize);
            ids.collect()
        };
        self.records_of(ids).await
    }

    async fn search(&self, beginning: &str, take: u32) -> session_store::Result<Vec<Record>> {
        // Requests wait for the lock, but not for the search.
        let mut ids: Vec<Id> = self.order.lock().await.sessions().collect();
        ids.retain(|id| id.to_string().starts_with(beginning));
        ids.truncate(take as usize);
        self.records_of(ids).await
    }

    async fn delete_all(
        &self,
        predicate: Predicate<'_>,
        deleted: &mut (dyn FnMut(Id) + Send),
    ) -> session_store::Result<bool> {
        let ids: Vec<Id> = self.order.lock().await.expiry.keys().copied().collect();
        for id in ids {
            let record = self.records.load(&id).await?;
            if record.is_some_and(|record| predicate(&record)) {
                self.delete(&id).await?;
                deleted(id);
            }
        }
        Ok(true)
    }
}
