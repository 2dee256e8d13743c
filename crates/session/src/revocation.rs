//! The last revocation of all sessions, which all servers must know of: a session may change its id meanwhile.

use serde::{Deserialize, Serialize};

use super::{
    SessionError,
    envelope::expires_in,
    expiry::now,
    store::{Store, values},
};

/// The name of the value.
const NAME: &str = "revocation";

/// For this number of seconds after a revocation, a request that changes a session's id asks whether the session is
/// one of those: longer than it takes to find them all.
const AGE: u64 = 3_600;

/// One that lies further ahead, in seconds, was made by a clock that was wrong.
const CLOCKS_DIFFER: i64 = 60;

/// A revocation of all sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Drawn anew each time; a session that is exempt has it.
    pub number: u64,
    /// When it was, in seconds since 1970.
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

    /// Lets all servers know of it.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn announce(self, store: &dyn Store) -> Result<(), SessionError> {
        let value = serde_json::to_string(&self)?;
        Ok(values::set(store, NAME, &value, expires_in(AGE)).await?)
    }

    /// The last one; `None`: there was none lately.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn last(store: &dyn Store) -> Result<Option<Self>, SessionError> {
        let value = values::get(store, NAME).await?;
        let last: Option<Self> = value.and_then(|value| serde_json::from_str(&value).ok());
        Ok(last.filter(|last| last.revoked_at <= now() + CLOCKS_DIFFER))
    }
}
