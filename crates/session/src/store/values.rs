//! Small values that all servers share and that are no sessions, such as login tokens.
//!
//! An engine that lists its sessions keeps them apart from the records, by [`Values`]. Elsewhere each is a record
//! under a hash of its name, which no session has.

use std::collections::HashMap;

use time::OffsetDateTime;
use tower_sessions::{
    session::{Id, Record},
    session_store,
};

use super::{EncodedRecord, Store, Swap};
use crate::id::half_hash;

/// The record's one key; not the sessions' own.
const KEY: &str = "value";

/// How many times a value is written against other writers.
const MOST_TRIES: usize = 16;

/// Small values beside the sessions, by name.
#[async_trait::async_trait]
pub trait Values: Send + Sync {
    /// The value of this name.
    ///
    /// # Errors
    /// When the store fails.
    async fn value(&self, name: &str) -> session_store::Result<Option<String>>;

    /// Stores a value, or replaces it.
    ///
    /// # Errors
    /// When the store did not respond; the value may be stored.
    async fn set_value(
        &self,
        name: &str,
        value: &str,
        expires_at: OffsetDateTime,
    ) -> session_store::Result<()>;

    /// Removes a value, and returns it to one caller alone.
    ///
    /// # Errors
    /// When the store did not respond; the value may be gone.
    async fn take_value(&self, name: &str) -> session_store::Result<Option<String>>;
}

/// As [`Values::value`], in any store.
pub(crate) async fn get(store: &dyn Store, name: &str) -> session_store::Result<Option<String>> {
    match store.values() {
        Some(values) => values.value(name).await,
        None => Ok(find(store, name).await?.as_ref().and_then(value_of)),
    }
}

/// As [`Values::set_value`], in any store.
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
    for _ in 0..MOST_TRIES {
        let Some(old) = find(store, name).await? else {
            let mut created = new.clone();
            match store.create(&mut created).await {
                Ok(()) if created.id == new.id => return Ok(()),
                // Another server was faster, and the engine has found this one another place.
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
        "the value {name} was written by others all the time"
    )))
}

/// As [`Values::take_value`], in any store.
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

/// The record of a value. One that can't be read is removed: it would stand there for ever.
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

/// The id of a value's record. No client knows an id with this hash.
fn id(name: &str) -> Id {
    half_hash(format!("value:{name}"))
}
