//! Passes: whoever opens a link with one, once and for a while, is no stranger to a realm. A pass is
//! a record of its own beside the sessions, under a hash of what the link carries.

use std::collections::HashMap;

use tower_sessions::session::Record;

use super::{
    SessionError,
    envelope::expires_in,
    id::SessionId,
    store::{EncodedRecord, Store},
};

/// The record's one key, whose value is the realm; not the sessions' own, so that a pass is no
/// session.
const KEY: &str = "pass";

/// Makes a pass that holds so many seconds, and returns what a link carries.
///
/// # Errors
/// When the store can't be asked, or the system gives no random numbers.
pub async fn make(store: &dyn Store, realm: &str, age: u32) -> Result<String, SessionError> {
    let id = SessionId::generate()?;
    let mut record = Record {
        id: id.hashed(),
        data: HashMap::from([(KEY.to_owned(), realm.into())]),
        expiry_date: expires_in(age.into()),
    };
    store.create(&mut record).await?;
    Ok(id.cookie_value())
}

/// The pass to this realm that a link carries.
///
/// # Errors
/// When the store can't be asked.
pub async fn find(
    store: &dyn Store,
    realm: &str,
    carried: &str,
) -> Result<Option<Record>, SessionError> {
    let Some(id) = SessionId::parse(carried.as_bytes()) else {
        return Ok(None);
    };
    let record = store.load(&id.hashed()).await?;
    Ok(record.filter(|record| record.data.get(KEY).is_some_and(|value| value == realm)))
}

/// Uses a pass up; says whether nobody has before.
///
/// # Errors
/// When the store did not answer; the pass may be used up.
pub async fn use_up(store: &dyn Store, pass: Record) -> Result<bool, SessionError> {
    Ok(store.compare_and_delete(&EncodedRecord::from(pass)).await?)
}

/// Whether a record is a pass.
pub fn is_pass(record: &Record) -> bool {
    record.data.contains_key(KEY)
}
