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
    CLEAR_BATCH, DeleteExpired, Diagnostics, EncodedRecord, Store, Swap, UserEntry, UserIndex,
    Values,
    index::{SessionIndex, SessionScan},
};

/// tower-sessions' own memory store, with a lock that makes comparing and saving one step, and an
/// order by expiry, by which expired records are found.
#[derive(Debug, Default)]
pub struct Memory {
    records: MemoryStore,
    order: Mutex<Order>,
    users: Mutex<BTreeMap<UserKey, UserEntry>>,
    /// By name, with their ends.
    values: Mutex<HashMap<String, (String, OffsetDateTime)>>,
}

/// A user, a session, and a realm: an entry of the index of users.
type UserKey = (String, i128, String);

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
        self.records.values().rev().copied()
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

    fn users(&self) -> Option<&dyn UserIndex> {
        Some(self)
    }

    fn values(&self) -> Option<&dyn Values> {
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
        self.values
            .lock()
            .await
            .retain(|_, value| alive(value).is_some());
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
        Ok(alive.count() as u64)
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

    async fn scan(&self) -> session_store::Result<Box<dyn SessionScan + '_>> {
        let ids = self.order.lock().await.expiry.keys().copied().collect();
        Ok(Box::new(Scan { store: self, ids }))
    }
}

/// The sessions that are left to see.
struct Scan<'a> {
    store: &'a Memory,
    ids: Vec<Id>,
}

#[async_trait::async_trait]
impl SessionScan for Scan<'_> {
    async fn next(&mut self) -> session_store::Result<Option<Vec<Record>>> {
        if self.ids.is_empty() {
            return Ok(None);
        }
        let rest = self.ids.len().saturating_sub(CLEAR_BATCH as usize);
        let step = self.ids.split_off(rest);
        self.store.records_of(step).await.map(Some)
    }
}

fn user_key(entry: &UserEntry) -> UserKey {
    (entry.user.clone(), entry.id.0, entry.realm.clone())
}

#[async_trait::async_trait]
impl UserIndex for Memory {
    async fn add(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        let mut users = self.users.lock().await;
        users.extend(entries.iter().map(|entry| (user_key(entry), entry.clone())));
        Ok(())
    }

    async fn remove(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        let mut users = self.users.lock().await;
        for entry in entries {
            users.remove(&user_key(entry));
        }
        Ok(())
    }

    async fn entries(&self, user: &str) -> session_store::Result<Vec<UserEntry>> {
        let users = self.users.lock().await;
        let first = (user.to_owned(), i128::MIN, String::new());
        let entries = users
            .range(first..)
            .take_while(|((of, _, _), _)| of == user);
        Ok(entries.map(|(_, entry)| entry.clone()).collect())
    }

    async fn due(&self, now: i64, limit: u32) -> session_store::Result<Vec<UserEntry>> {
        let users = self.users.lock().await;
        let due = users.values().filter(|entry| entry.check_at <= now);
        Ok(due.take(limit as usize).cloned().collect())
    }

    async fn count(&self) -> session_store::Result<u64> {
        Ok(self.users.lock().await.len() as u64)
    }

    async fn is_complete(&self) -> session_store::Result<bool> {
        Ok(true)
    }

    async fn set_complete(&self) -> session_store::Result<()> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Values for Memory {
    async fn value(&self, name: &str) -> session_store::Result<Option<String>> {
        let values = self.values.lock().await;
        Ok(values.get(name).and_then(alive))
    }

    async fn set_value(
        &self,
        name: &str,
        value: &str,
        expires_at: OffsetDateTime,
    ) -> session_store::Result<()> {
        let value = (value.to_owned(), expires_at);
        self.values.lock().await.insert(name.to_owned(), value);
        Ok(())
    }

    async fn take_value(&self, name: &str) -> session_store::Result<Option<String>> {
        let value = self.values.lock().await.remove(name);
        Ok(value.as_ref().and_then(alive))
    }
}

fn alive((value, expires_at): &(String, OffsetDateTime)) -> Option<String> {
    (*expires_at > OffsetDateTime::now_utc()).then(|| value.clone())
}
