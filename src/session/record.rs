//! What is stored for a session: the visitor, and the token of the last write.

use std::{collections::HashMap, time::Duration as StdDuration};

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use tower_sessions::session::{Id, Record};

use super::SessionError;
use crate::visitor::Visitor;

/// The record's one key. One key alone, so that a record always encodes to the same bytes, which
/// is what compare-and-save compares.
const KEY: &str = "tally";

/// A session as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stored {
    /// Drawn anew for each write: tells, after a broken connection, whose write it was.
    pub token: u64,
    pub visitor: Visitor,
}

impl Stored {
    /// A visitor that is about to be written.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn new(visitor: Visitor) -> Result<Self, SessionError> {
        let token = getrandom::u64()?;
        Ok(Self { token, visitor })
    }

    /// What a record holds, or `None` where it can't be decoded.
    pub fn of(record: &Record) -> Option<Self> {
        Self::deserialize(record.data.get(KEY)?).ok()
    }

    /// The record of tower-sessions that holds this.
    ///
    /// # Errors
    /// When the visitor can't be written as JSON.
    pub fn record(&self, id: Id, expiry_date: OffsetDateTime) -> Result<Record, SessionError> {
        Ok(Record {
            id,
            data: HashMap::from([(KEY.to_owned(), serde_json::to_value(self)?)]),
            expiry_date,
        })
    }
}

/// The point in time `age` seconds from now, in whole seconds as Redis keeps it.
pub fn expires_in(age: u64) -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let age = Duration::seconds(i64::try_from(age).unwrap_or(i64::MAX));
    now.checked_add(age)
        .unwrap_or(time::PrimitiveDateTime::MAX.assume_utc())
}

/// A short random wait, up to eight milliseconds, that keeps losers of a race from meeting again.
///
/// # Errors
/// When the operating system gives no random numbers.
pub fn jitter() -> Result<StdDuration, SessionError> {
    Ok(StdDuration::from_micros(getrandom::u64()? % 8_000))
}
