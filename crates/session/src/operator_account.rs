//! What all servers must know of the operator, in a record of its own beside the sessions, so that
//! every engine keeps it: the generation of the account, which every sign-in rests on, and the last
//! revocation of all sessions.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, macros::datetime};
use tokio::time::{Instant, sleep};
use tower_sessions::{
    session::{Id, Record},
    session_store,
};

use super::{
    SessionError,
    envelope::jitter,
    queue::RETRY_DEADLINE,
    store::{EncodedRecord, Store, Swap},
};

/// Where the record is kept: no session has this id, for the hash that is 1 is known of no id.
pub const ID: Id = Id(1);

/// The record's one key; not the sessions' own, so that nobody takes it for one.
const KEY: &str = "account";

/// The record outlives every sign-in and every session: lists by their end begin with it.
const ENDS: OffsetDateTime = datetime!(9000-01-01 0:00 UTC);

/// For so many seconds after a revocation of all sessions, whoever changes a session's id asks
/// whether it is one of them: longer than it takes to find them all.
const REVOKING_AGE: i64 = 3_600;

/// One that lies further ahead, in seconds, was made by a clock that was wrong.
const CLOCKS_DIFFER: i64 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revocation: Option<Revocation>,
}

/// A revocation of all sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Drawn anew each time; a session that is spared has it.
    pub number: u64,
    /// When it was, in seconds since 1970.
    #[serde(rename = "at")]
    pub revoked_at: i64,
}

impl Revocation {
    /// One that begins now.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new() -> Result<Self, SessionError> {
        Ok(Self {
            number: getrandom::u64()?,
            revoked_at: now(),
        })
    }

    fn is_recent(&self) -> bool {
        (-CLOCKS_DIFFER..REVOKING_AGE).contains(&now().saturating_sub(self.revoked_at))
    }
}

impl Account {
    /// One of a generation that nobody has signed in to yet.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    fn new() -> Result<Self, SessionError> {
        Ok(Self {
            generation: getrandom::u64()?,
            revocation: None,
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

/// What the store has.
enum Found {
    Nothing,
    Unreadable,
    /// An account, in its record.
    Account(Account, Record),
}

impl Found {
    fn account(self) -> Option<Account> {
        match self {
            Self::Account(account, _) => Some(account),
            Self::Nothing | Self::Unreadable => None,
        }
    }
}

/// The account's generation; `None`: nobody has signed in yet, or the store has forgotten it.
///
/// # Errors
/// When the store can't be asked.
pub async fn generation(store: &dyn Store) -> Result<Option<u64>, SessionError> {
    let account = find(store).await?.account();
    Ok(account.map(|account| account.generation))
}

/// The same, made where there is none.
///
/// # Errors
/// When the store can't be asked, or the system gives no random numbers.
pub async fn generation_or_new(store: &dyn Store) -> Result<u64, SessionError> {
    match find(store).await? {
        Found::Account(account, _) => return Ok(account.generation),
        // It would stand there for ever.
        Found::Unreadable => store.delete(&ID).await?,
        Found::Nothing => {}
    }
    let new = Account::new()?;
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
/// config asks for that, so that a fail-over brings none back.
///
/// # Errors
/// When the store can't be asked, or the system gives no random numbers.
pub async fn end(store: &dyn Store) -> Result<(), SessionError> {
    let new = Account::new()?;
    change(store, |account| account.generation = new.generation).await
}

/// Lets all servers know of a revocation.
///
/// # Errors
/// When the store can't be asked, or the system gives no random numbers.
pub async fn revoke(store: &dyn Store, revocation: Revocation) -> Result<(), SessionError> {
    generation_or_new(store).await?;
    change(store, |account| account.revocation = Some(revocation)).await
}

/// The last revocation; `None`: there was none lately.
///
/// # Errors
/// When the store can't be asked.
pub async fn revocation(store: &dyn Store) -> Result<Option<Revocation>, SessionError> {
    let revocation = find(store)
        .await?
        .account()
        .and_then(|account| account.revocation);
    Ok(revocation.filter(Revocation::is_recent))
}

async fn find(store: &dyn Store) -> Result<Found, SessionError> {
    let record = match store.load(&ID).await {
        Err(session_store::Error::Decode(_)) => return Ok(Found::Unreadable),
        other => other?,
    };
    let Some(record) = record else {
        return Ok(Found::Nothing);
    };
    let account = Account::of(&record);
    Ok(account.map_or(Found::Unreadable, |account| Found::Account(account, record)))
}

/// Changes the account, where there is one. Changes may be made twice: a connection that broke does
/// not say whether it was.
async fn change(store: &dyn Store, change: impl Fn(&mut Account)) -> Result<(), SessionError> {
    let give_up = Instant::now() + RETRY_DEADLINE;
    loop {
        let Found::Account(mut account, old) = find(store).await? else {
            return Ok(());
        };
        change(&mut account);
        let (old, new) = (
            EncodedRecord::from(old),
            EncodedRecord::from(account.record()?),
        );
        let failed = match store.compare_and_swap(&old, &new).await {
            Ok(Swap::Saved) => return Ok(()),
            Ok(Swap::Conflict(_)) => SessionError::Conflict,
            Err(error) => SessionError::from(error).indeterminate(),
        };
        if Instant::now() >= give_up {
            return Err(failed);
        }
        sleep(jitter()).await;
    }
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}
