//! What all servers must know of the operator, in a record of its own beside the sessions, so that
//! every engine keeps it: the generation of the account, which every sign-in rests on, and when all
//! sessions were revoked.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, macros::datetime};
use tower_sessions::{
    session::{Id, Record},
    session_store,
};

use super::{
    SessionError,
    store::{Kept, Saved, Store},
};

/// Where the record is kept: no session has this id, for the hash that is 1 is known of no id.
pub const ID: Id = Id(1);

/// The record's one key; not the sessions' own, so that nobody takes it for one.
const KEY: &str = "account";

/// The record outlives every sign-in and every session: lists by their end begin with it.
const ENDS: OffsetDateTime = datetime!(9000-01-01 0:00 UTC);

/// So often a change is tried against others'; operators rarely act at the same moment.
const MOST_TRIES: usize = 8;

/// For so many seconds after all sessions were revoked, whoever changes a session's id asks whether
/// it was one of them: longer than it takes to find them all.
const REVOKING_AGE: i64 = 3_600;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    generation: u64,
    /// When all sessions were revoked the last time, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<i64>,
}

impl Account {
    /// # Errors
    /// When the system gives no random numbers.
    fn new() -> Result<Self, SessionError> {
        Ok(Self {
            generation: getrandom::u64()?,
            revoked: None,
        })
    }

    fn of(record: &Record) -> Option<Self> {
        Self::deserialize(record.data.get(KEY)?).ok()
    }

    fn record(self) -> Result<Record, SessionError> {
        Ok(Record {
            id: ID,
            data: HashMap::from([(KEY.to_owned(), serde_json::to_value(self)?)]),
            expiry_date: ENDS,
        })
    }
}

/// The account's generation; `None`: nobody has signed in yet, or the store has forgotten it.
///
/// # Errors
/// When the store can't be asked.
pub async fn generation(store: &dyn Store) -> Result<Option<u64>, SessionError> {
    Ok(load(store).await?.map(|account| account.generation))
}

/// The same, made where there is none.
///
/// # Errors
/// When the store can't be asked, or the system gives no random numbers.
pub async fn generation_or_new(store: &dyn Store) -> Result<u64, SessionError> {
    if let Some(generation) = generation(store).await? {
        return Ok(generation);
    }
    let new = Account::new()?;
    // What stands there and can't be read would stand there for ever.
    store.delete(&ID).await?;
    let mut record = new.record()?;
    store.create(&mut record).await?;
    if record.id != ID {
        // Another server was faster, and the engine has found this one another place.
        store.delete(&record.id).await?;
    }
    // Where another server made one at the same time, the one that stayed counts.
    Ok(generation(store).await?.unwrap_or(new.generation))
}

/// Draws another generation, and thereby ends every sign-in. A change waits for replicas where the
/// settings ask for that, so that a fail-over brings none back.
///
/// # Errors
/// When the store can't be asked, or the system gives no random numbers.
pub async fn end(store: &dyn Store) -> Result<(), SessionError> {
    let new = Account::new()?;
    change(store, |account| account.generation = new.generation).await
}

/// Lets all servers know that all sessions are revoked at `at`, in seconds since 1970.
///
/// # Errors
/// When the store can't be asked, or the system gives no random numbers.
pub async fn revoke(store: &dyn Store, at: i64) -> Result<(), SessionError> {
    generation_or_new(store).await?;
    change(store, |account| {
        account.revoked = account.revoked.max(Some(at));
    })
    .await
}

/// When all sessions were revoked, in seconds since 1970; `None`: not lately.
///
/// # Errors
/// When the store can't be asked.
pub async fn revoked(store: &dyn Store) -> Result<Option<i64>, SessionError> {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let revoked = load(store).await?.and_then(|account| account.revoked);
    Ok(revoked.filter(|at| now.saturating_sub(*at) < REVOKING_AGE))
}

/// `None` also where it can't be read.
async fn load(store: &dyn Store) -> Result<Option<Account>, SessionError> {
    match store.load(&ID).await {
        Err(session_store::Error::Decode(_)) => Ok(None),
        other => Ok(other?.as_ref().and_then(Account::of)),
    }
}

/// Changes the account, where there is one.
async fn change(store: &dyn Store, change: impl Fn(&mut Account)) -> Result<(), SessionError> {
    for _ in 0..MOST_TRIES {
        let Some(old) = load(store).await? else {
            return Ok(());
        };
        let mut new = old;
        change(&mut new);
        let (old, new) = (Kept::from(old.record()?), Kept::from(new.record()?));
        if let Saved::Yes = store.compare_and_save(&old, &new).await? {
            return Ok(());
        }
    }
    Err(SessionError::Contended)
}
