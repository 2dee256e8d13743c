//! What all servers must know of the operator's account: its generation. It is a record of its own
//! beside the sessions, so that every engine keeps it; whoever deletes it ends every sign-in that
//! rests on it.

use std::collections::HashMap;

use time::{OffsetDateTime, macros::datetime};
use tower_sessions::session::{Id, Record};

use super::{SessionError, store::Store};

/// Where the record is kept: no session has this id, for the hash that is 1 is known of no id.
pub const ID: Id = Id(1);

/// The record's one key; not the sessions' own, so that nobody takes it for one.
const KEY: &str = "generation";

/// The record outlives every sign-in and every session: lists by their end begin with it.
const ENDS: OffsetDateTime = datetime!(9000-01-01 0:00 UTC);

/// The account's generation; `None`: nobody has signed in yet, or the store has forgotten it.
///
/// # Errors
/// When the store can't be asked.
pub async fn generation(store: &dyn Store) -> Result<Option<u64>, SessionError> {
    let record = store.load(&ID).await?;
    Ok(record.and_then(|record| record.data.get(KEY)?.as_u64()))
}

/// The same, made where there is none.
///
/// # Errors
/// When the store can't be asked, or the system gives no random numbers.
pub async fn generation_or_new(store: &dyn Store) -> Result<u64, SessionError> {
    if let Some(generation) = generation(store).await? {
        return Ok(generation);
    }
    let new = getrandom::u64()?;
    let mut record = Record {
        id: ID,
        data: HashMap::from([(KEY.to_owned(), new.into())]),
        expiry_date: ENDS,
    };
    store.create(&mut record).await?;
    if record.id != ID {
        // Another server was faster, and the engine has found this one another place.
        store.delete(&record.id).await?;
    }
    // Where another server made one at the same time, the one that stayed counts.
    Ok(generation(store).await?.unwrap_or(new))
}

/// Forgets the generation, and thereby ends every sign-in; the next one makes another. A deletion
/// waits for replicas where the settings ask for that, so that a fail-over brings none back.
///
/// # Errors
/// When the store can't be asked.
pub async fn end(store: &dyn Store) -> Result<(), SessionError> {
    Ok(store.delete(&ID).await?)
}
