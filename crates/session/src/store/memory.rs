//! A store in memory, for development and tests. Nothing survives a restart, and servers can't share it.

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

/// The memory store of tower-sessions, with a lock that makes compare-and-swap atomic, and an index by expiry.
#[derive(Debug, Default)]
pub struct Memory {
    records: MemoryStore,
    by_expiry: Mutex<ExpiryIndex>,
    users: Mutex<BTreeMap<UserKey, UserEntry>>,
    /// Each value by its name, with its expiry.
    values: Mutex<HashMap<String, (String, OffsetDateTime)>>,
}

/// The key of an entry in the index of users: the user, the session and the realm.
type UserKey = (String, i128, String);

/// The expiry of each record, and the records in the order of their expiry. Its lock is held while a record is written.
#[derive(Debug, Default)]
struct ExpiryIndex {
    expiry: HashMap<Id, OffsetDateTime>,
    records: BTreeMap<(OffsetDateTime, i128), Id>,
}

impl ExpiryIndex {
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

    /// The sessions, the last to expire first.
    fn sessions(&self) -> impl Iterator<Item = Id> {
        self.records.values().rev().copied()
    }

    fn next_expired(&self) -> Option<Id> {
        let ((expiry, _), id) = self.records.first_key_value()?;
        (*expiry <= OffsetDateTime::now_utc()).then_some(*id)
    }
}

impl Memory {
    /// Takes the lock, and returns it if the stored record is still `old`.
    async fn lock_if(
        &self,
        old: &Record,
    ) -> session_store::Result<Option<MutexGuard<'_, ExpiryIndex>>> {
        let by_expiry = self.by_expiry.lock().await;
        let same = self.records.load(&old.id).await?.as_ref() == Some(old);
        Ok(same.then_some(by_expiry))
    }
}

#[async_trait::async_trait]
impl SessionStore for Memory {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let mut by_expiry = self.by_expiry.lock().await;
        self.records.create(record).await?;
        by_expiry.insert(record);
        Ok(())
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let mut by_expiry = self.by_expiry.lock().await;
        self.records.save(record).await?;
        by_expiry.insert(record);
        Ok(())
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        self.records.load(id).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let mut by_expiry = self.by_expiry.lock().await;
        by_expiry.remove(id);
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
        let Some(mut by_expiry) = self.lock_if(old).await? else {
            return Ok(Swap::Conflict(None));
        };
        self.records.save(new).await?;
        by_expiry.insert(new);
        Ok(Swap::Saved)
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        let Some(mut by_expiry) = self.lock_if(old).await? else {
            return Ok(false);
        };
        by_expiry.remove(&old.id);
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
        let mut by_expiry = self.by_expiry.lock().await;
        let mut cleared = 0;
        while cleared < u64::from(limit)
            && let Some(id) = by_expiry.next_expired()
        {
            by_expiry.remove(&id);
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
            "the memory store loses every session at a restart; use redis:// or sqlite://"
                .to_owned(),
        ])
    }
}

impl Memory {
    /// The records of these sessions, without those that have ended in the meantime.
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
        let by_expiry = self.by_expiry.lock().await;
        let alive = (OffsetDateTime::now_utc(), i128::MAX);
        let alive = by_expiry
            .records
            .range((Bound::Excluded(alive), Bound::Unbounded));
        Ok(alive.count() as u64)
    }

    async fn page(&self, skip: u64, take: u32) -> session_store::Result<Vec<Record>> {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let ids = {
            let by_expiry = self.by_expiry.lock().await;
            let ids = by_expiry.sessions().skip(skip).take(take as usize);
            ids.collect()
        };
        self.records_of(ids).await
    }

    async fn search(&self, beginning: &str, take: u32) -> session_store::Result<Vec<Record>> {
        // The ids are copied, so that the search does not hold the lock.
        let mut ids: Vec<Id> = self.by_expiry.lock().await.sessions().collect();
        ids.retain(|id| id.to_string().starts_with(beginning));
        ids.truncate(take as usize);
        self.records_of(ids).await
    }

    async fn scan(&self) -> session_store::Result<Box<dyn SessionScan + '_>> {
        let ids = self.by_expiry.lock().await.expiry.keys().copied().collect();
        Ok(Box::new(Scan { store: self, ids }))
    }
}

/// A scan, with the sessions that it has not returned yet.
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
        let batch = self.ids.split_off(rest);
        self.store.records_of(batch).await.map(Some)
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
