//! A session's own expiry, apart from the config: kept with the session, as Django's `set_expiry`.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;

use super::config::Config;

/// The server's clock, in seconds since 1970.
pub(crate) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// When a session ends, if not as the config says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// So many seconds after the last write.
    Seconds(u64),
    /// When the browser closes; the record still lives as the config says.
    BrowserClose,
    /// At a point in time, in seconds since 1970.
    At(i64),
}

/// An expiry that lies in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a session can't expire in the past")]
pub struct PastExpiry;

impl Expiry {
    /// So many seconds after each write; 0 is [`Expiry::BrowserClose`].
    ///
    /// # Errors
    /// [`PastExpiry`] for a negative number.
    pub fn seconds(seconds: i64) -> Result<Self, PastExpiry> {
        match u64::try_from(seconds) {
            Ok(0) => Ok(Self::BrowserClose),
            Ok(seconds) => Ok(Self::Seconds(seconds)),
            Err(_) => Err(PastExpiry),
        }
    }

    /// A point in time.
    ///
    /// # Errors
    /// [`PastExpiry`] where it is not after now.
    pub fn at(time: OffsetDateTime) -> Result<Self, PastExpiry> {
        if time > OffsetDateTime::now_utc() {
            Ok(Self::At(time.unix_timestamp()))
        } else {
            Err(PastExpiry)
        }
    }
}

/// How long a session that is written now lives, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// In the store.
    pub record: u64,
    /// The cookie's Max-Age; `None`: until the browser closes.
    pub cookie: Option<u64>,
}

/// Applies the session's own expiry, then the limits: idle, absolute, and unconfirmed.
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
