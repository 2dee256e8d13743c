//! What is stored for a session: the visitor, and what the core itself must remember.

use std::{collections::HashMap, time::Duration as StdDuration};

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use tower_sessions::session::{Id, Record};

use super::{
    SessionError,
    expiry::{Expiry, Lifetime, lifetime},
    settings::SessionSettings,
};
use crate::visitor::Visitor;

/// The record's one key. One key alone, so that a record always encodes to the same bytes, which
/// is what compare-and-save compares.
const KEY: &str = "tally";

/// So many servers' last writes are remembered; more than that rarely write one session within
/// the seconds that a broken save is asked after.
const MOST_WRITERS: usize = 8;

/// A session as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Each server's last write, newest first. A server writes one session one write at a time, so
    /// after a broken connection its own entry tells for certain whether the write took.
    pub writers: Vec<Write>,
    /// When the session was made, in seconds since 1970: the absolute limit counts from here.
    pub began: i64,
    /// The cookie has come back at least once.
    pub confirmed: bool,
    /// The session's own expiry, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Expiry>,
    pub visitor: Visitor,
}

/// One write: which server, and a number drawn anew each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    pub server: u64,
    pub token: u64,
}

impl Stored {
    /// A session that begins now.
    pub fn new(visitor: Visitor) -> Self {
        Self {
            writers: Vec::new(),
            began: OffsetDateTime::now_utc().unix_timestamp(),
            confirmed: false,
            expiry: None,
            visitor,
        }
    }

    /// What a record holds, or `None` where it can't be decoded.
    pub fn of(record: &Record) -> Option<Self> {
        Self::deserialize(record.data.get(KEY)?).ok()
    }

    /// Signs the write that is about to be sent.
    pub fn sign(&mut self, write: Write) {
        self.writers.retain(|other| other.server != write.server);
        self.writers.insert(0, write);
        self.writers.truncate(MOST_WRITERS);
    }

    /// Whether the write took, be it the last one or not.
    pub fn is_signed(&self, write: Write) -> bool {
        self.writers.contains(&write)
    }

    /// How long the session lives if it is written now.
    pub fn lifetime(&self, settings: &SessionSettings) -> Lifetime {
        let now = OffsetDateTime::now_utc();
        lifetime(settings, self.expiry, self.began, self.confirmed, now)
    }

    /// The record of tower-sessions that holds this.
    ///
    /// # Errors
    /// When the visitor can't be written as JSON.
    pub fn record(&self, id: Id, settings: &SessionSettings) -> Result<Record, SessionError> {
        let value = serde_json::to_value(self)?;
        Ok(Record {
            id,
            data: HashMap::from([(KEY.to_owned(), value)]),
            expiry_date: expires_in(self.lifetime(settings).record),
        })
    }
}

/// The point in time `age` seconds from now, in whole seconds as Redis keeps it.
fn expires_in(age: u64) -> OffsetDateTime {
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
