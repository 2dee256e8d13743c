//! The last revocation of all sessions. Every server must know of it, because a session may change its id while the
//! revocation runs.

use serde::{Deserialize, Serialize};

use super::{
    SessionError,
    envelope::expires_in,
    expiry::now,
    store::{Store, values},
};

/// The name of the shared value that holds the last revocation.
const NAME: &str = "revocation";

/// How long servers know of a revocation, in seconds: longer than it takes to find all sessions. Until then, a request
/// that changes a session's id checks whether the session has been revoked.
const AGE: u64 = 3_600;

/// By how many seconds servers' clocks may differ. A revocation further in the future comes from a wrong clock, and is
/// ignored.
const CLOCK_TOLERANCE: i64 = 60;

/// A revocation of all sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// A random number. A session that is exempt stores it.
    pub number: u64,
    /// In seconds since 1970.
    pub revoked_at: i64,
}

impl Revocation {
    /// A revocation that begins now.
    ///
    /// # Errors
    /// When the operating system provides no random numbers.
    pub fn new() -> Result<Self, SessionError> {
        Ok(Self {
            number: getrandom::u64()?,
            revoked_at: now(),
        })
    }

    /// Announces the revocation to all servers.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn announce(self, store: &dyn Store) -> Result<(), SessionError> {
        let value = serde_json::to_string(&self)?;
        Ok(values::set(store, NAME, &value, expires_in(AGE)).await?)
    }

    /// The last revocation. `None`: there has been none recently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn last(store: &dyn Store) -> Result<Option<Self>, SessionError> {
        let value = values::get(store, NAME).await?;
        let last: Option<Self> = value.and_then(|value| serde_json::from_str(&value).ok());
        Ok(last.filter(|last| last.revoked_at <= now() + CLOCK_TOLERANCE))
    }
}
