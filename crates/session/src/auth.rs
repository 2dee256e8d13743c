//! Who has signed in: kept with the session, within two limits, and only for as long as what it
//! rests on stays the same.
//!
//! A session is signed in to a realm, by a name of its own, such as the console's: signing in to one
//! says nothing in another, and ends nothing there.

use serde::{Deserialize, Serialize};

/// A sign-in, as it is kept with its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignIn {
    /// A hash of what it rests on: the password's hash, and the account's generation. Where either
    /// has changed, it holds no longer.
    #[serde(rename = "stamp")]
    pub auth_hash: u64,
    /// When it was, in seconds since 1970.
    #[serde(rename = "since")]
    pub signed_in_at: i64,
    /// When it was last used, in seconds since 1970, exact to [`LAST_USED_STEP`].
    #[serde(rename = "seen")]
    pub last_used_at: i64,
}

/// How long a sign-in holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Seconds since it was last used.
    pub idle: u64,
    /// Seconds since it was made.
    pub absolute: u64,
}

/// Why a sign-in holds no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was not used for too long.
    Idle,
    /// It was made too long ago.
    Absolute,
    /// Somebody signed out everywhere, or the password is another one.
    Elsewhere,
}

/// A use is written down at most so often, in seconds: not every page needs a write.
pub const LAST_USED_STEP: i64 = 15;

impl SignIn {
    /// One that begins at `now` (seconds since 1970).
    pub fn new(auth_hash: u64, now: i64) -> Self {
        Self {
            auth_hash,
            signed_in_at: now,
            last_used_at: now,
        }
    }

    /// Whether it still holds.
    ///
    /// # Errors
    /// Why it does not.
    pub fn check(&self, auth_hash: u64, limits: Limits, now: i64) -> Result<(), Ended> {
        let over = |since: i64, limit: u64| {
            u64::try_from(now.saturating_sub(since)).is_ok_and(|age| age >= limit)
        };
        if self.auth_hash != auth_hash {
            Err(Ended::Elsewhere)
        } else if over(self.signed_in_at, limits.absolute) {
            Err(Ended::Absolute)
        } else if over(self.last_used_at, limits.idle) {
            Err(Ended::Idle)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_ends_by_idleness_by_age_and_by_another_auth_hash() {
        let limits = Limits {
            idle: 100,
            absolute: 1_000,
        };
        let mut sign_in = SignIn::new(7, 10_000);
        assert_eq!(sign_in.check(7, limits, 10_099), Ok(()));
        assert_eq!(sign_in.check(7, limits, 10_100), Err(Ended::Idle));
        assert_eq!(sign_in.check(8, limits, 10_000), Err(Ended::Elsewhere));
        sign_in.last_used_at = 10_950;
        assert_eq!(sign_in.check(7, limits, 10_999), Ok(()));
        assert_eq!(sign_in.check(7, limits, 11_000), Err(Ended::Absolute));
        // A clock that went back ends nothing.
        assert_eq!(sign_in.check(7, limits, 9_000), Ok(()));
    }
}
