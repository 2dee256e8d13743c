//! A session's own expiry, like Django's `set_expiry`, and the lifetime that follows from it and the config.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;

use super::config::Config;

/// The current time, in seconds since 1970.
pub(crate) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// A session's own expiry, which overrides the config. It is stored with the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// This number of seconds after the last write.
    Seconds(u64),
    /// When the browser closes. The record still lives for the config's `cookie_age`.
    BrowserClose,
    /// At this time, in seconds since 1970.
    At(i64),
}

/// The error for an expiry in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a session can't expire in the past")]
pub struct PastExpiry;

impl Expiry {
    /// Expires this number of seconds after the last write. 0 is [`Expiry::BrowserClose`].
    ///
    /// # Errors
    /// [`PastExpiry`] if the number is negative.
    pub fn seconds(seconds: i64) -> Result<Self, PastExpiry> {
        match u64::try_from(seconds) {
            Ok(0) => Ok(Self::BrowserClose),
            Ok(seconds) => Ok(Self::Seconds(seconds)),
            Err(_) => Err(PastExpiry),
        }
    }

    /// Expires at a fixed time.
    ///
    /// # Errors
    /// [`PastExpiry`] if the time is not in the future.
    pub fn at(time: OffsetDateTime) -> Result<Self, PastExpiry> {
        if time > OffsetDateTime::now_utc() {
            Ok(Self::At(time.unix_timestamp()))
        } else {
            Err(PastExpiry)
        }
    }
}

/// The lifetime of a session that is written now, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// The lifetime of the record in the store.
    pub record: u64,
    /// The cookie's `Max-Age`. `None`: until the browser closes.
    pub cookie: Option<u64>,
}

/// Computes the lifetime from the session's own expiry, or else the config's, and applies the idle, absolute and
/// unconfirmed ages.
pub(crate) fn lifetime(
    config: &Config,
    own: Option<Expiry>,
    created_at: i64,
    confirmed: bool,
    now: OffsetDateTime,
) -> Lifetime {
    let now = now.unix_timestamp();
    let until = |time: i64| u64::try_from(time.saturating_sub(now)).unwrap_or(0);
    let age = match own {
        None | Some(Expiry::BrowserClose) => config.cookie_age,
        Some(Expiry::Seconds(seconds)) => seconds,
        Some(Expiry::At(time)) => until(time),
    };
    let idle = config.idle_age.unwrap_or(u64::MAX);
    let absolute = config.absolute_age.map_or(u64::MAX, |age| {
        until(created_at.saturating_add(i64::try_from(age).unwrap_or(i64::MAX)))
    });
    let age = age.min(idle).min(absolute);
    let at_close = match own {
        None => config.expire_at_browser_close,
        Some(own) => own == Expiry::BrowserClose,
    };
    Lifetime {
        record: if confirmed {
            age
        } else {
            age.min(config.unconfirmed_age)
        },
        cookie: (!at_close).then_some(age),
    }
}
