//! Small values that all servers share and that are not sessions, such as login tokens.
//!
//! A store that can list its sessions keeps values apart from them, by [`Values`]. In other stores, each value is a
//! record. Its id is a hash of the value's name, which no session has as its id.

use std::collections::HashMap;

use time::OffsetDateTime;
use tower_sessions::{
    session::{Id, Record},
    session_store,
};

use super::{EncodedRecord, Store, Swap};
use crate::id::half_hash;

/// The only key in a value's record. Records of sessions have another key.
const KEY: &str = "value";

/// How often a write is tried while other writers change the same value.
const MAX_ATTEMPTS: usize = 16;

/// Small values by name, which a store keeps apart from sessions.
#[async_trait::async_trait]
pub trait Values: Send + Sync {
    /// Returns the value of this name, unless it has expired.
    ///
    /// # Errors
    /// When the store fails.
    async fn value(&self, name: &str) -> session_store::Result<Option<String>>;

    /// Stores a value, or replaces it.
    ///
    /// # Errors
    /// When the store fails. The value may have been stored nevertheless.
    async fn set_value(
        &self,
        name: &str,
        value: &str,
        expires_at: OffsetDateTime,
    ) -> session_store::Result<()>;

    /// Removes a value and returns it. If several callers take the same value, only one of them gets it.
    ///
    /// # Errors
    /// When the store fails. The value may have been removed nevertheless.
    async fn take_value(&self, name: &str) -> session_store::Result<Option<String>>;
}

/// As [`Values::value`], for any store.
pub(crate) async fn get(store: &dyn Store, name: &str) -> session_store::Result<Option<String>> {
    match store.values() {
        Some(values) => values.value(name).await,
        None => Ok(find(store, name).await?.as_ref().and_then(value_of)),
    }
}

/// As [`Values::set_value`], for any store.
pub(crate) async fn set(
    store: &dyn Store,
    name: &str,
    value: &str,
    expires_at: OffsetDateTime,
) -> session_store::Result<()> {
    if let Some(values) = store.values() {
        return values.set_value(name, value, expires_at).await;
    }
    let new = record(name, value, expires_at);
    for _ in 0..MAX_ATTEMPTS {
        let Some(old) = find(store, name).await? else {
            let mut created = new.clone();
            match store.create(&mut created).await {
                Ok(()) if created.id == new.id => return Ok(()),
                // Another writer has just created the value, so the store has created this record under a new id.
                Ok(()) => store.delete(&created.id).await?,
                Err(error) if find(store, name).await?.is_none() => return Err(error),
                Err(_) => {}
            }
            continue;
        };
        let new = EncodedRecord::from(new.clone());
        if let Swap::Saved = store
            .compare_and_swap(&EncodedRecord::from(old), &new)
            .await?
        {
            return Ok(());
        }
    }
    Err(session_store::Error::Backend(format!(
        "the value {name} can't be stored, because other writers keep changing it"
    )))
}

/// As [`Values::take_value`], for any store.
pub(crate) async fn take(store: &dyn Store, name: &str) -> session_store::Result<Option<String>> {
    if let Some(values) = store.values() {
        return values.take_value(name).await;
    }
    let Some(found) = find(store, name).await? else {
        return Ok(None);
    };
    let value = value_of(&found);
    let taken = store
        .compare_and_delete(&EncodedRecord::from(found))
        .await?;
    Ok(value.filter(|_| taken))
}

/// Loads the record of a value. Deletes a record that can't be decoded, because it would block the value forever.
async fn find(store: &dyn Store, name: &str) -> session_store::Result<Option<Record>> {
    let id = id(name);
    match store.load(&id).await {
        Err(session_store::Error::Decode(_)) => {
            store.delete(&id).await?;
            Ok(None)
        }
        other => other,
    }
}

fn record(name: &str, value: &str, expires_at: OffsetDateTime) -> Record {
    Record {
        id: id(name),
        data: HashMap::from([(KEY.to_owned(), value.into())]),
        expiry_date: expires_at,
    }
}

fn value_of(record: &Record) -> Option<String> {
    Some(record.data.get(KEY)?.as_str()?.to_owned())
}

/// The id of a value's record. No session has it, because no known session id hashes to it.
fn id(name: &str) -> Id {
    half_hash(format!("value:{name}"))
}
