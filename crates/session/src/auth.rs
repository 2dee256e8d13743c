//! Sign-ins: which user a session belongs to, in which realm, and for how long.
//!
//! A realm is a named area with its own users, such as the members of a shop or the operators of a console. A session
//! can be signed in to several realms. The sign-ins are independent of each other.
//!
//! ```no_run
//! use tally_session::{Map, Session, SessionError, auth::{Limits, SignIn}};
//!
//! # async fn tour(session: Session<Map>, password_hash: &str, remember_me: bool) -> Result<(), SessionError> {
//! let mut sign_in = SignIn::new("ada").auth_hash(password_hash);
//! if remember_me {
//!     sign_in = sign_in.remember(Limits { idle: Some(30 * 86_400), absolute: None });
//! }
//! session.sign_in("members", sign_in).await?;              // takes effect, with a new id, if the response succeeds
//!
//! if let Some(member) = session.signed_in("members").await? {
//!     assert!(member.matches_auth_hash(password_hash), "the password has changed");
//! }
//!
//! let sessions = session.user_sessions("members").await?;  // of the signed-in user
//! for device in sessions.list().await? {
//!     println!("{} {:?} {}", device.short_id, device.user_agent, device.is_current);
//! }
//! sessions.end_others().await?;                            // signs out everywhere else, at once
//! session.sign_out("members").await?;
//! # Ok(())
//! # }
//! ```
//!
//! With axum, [`require_sign_in`] restricts routes to signed-in users, [`SignedIn`] gives a handler the user, and a
//! [`Realm`] tells both which sign-in page to use and what a sign-in must rest on.

#[cfg(feature = "axum")]
mod require;
mod user_sessions;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tower_sessions::session::Id;

#[cfg(feature = "axum")]
pub use require::{Realm, RequireSignIn, SignedIn, require_sign_in, safe_return_path};
pub(crate) use user_sessions::check_entries;
pub use user_sessions::{UserSession, UserSessions};

use crate::id::{half_hash, short_id};

/// The precision of [`SignedInUser::last_used_at`], in seconds. A use within this time of the last one is not written.
pub const LAST_USED_STEP: i64 = 15;

/// The most that is kept of a `User-Agent` header, in bytes.
const MAX_USER_AGENT: usize = 256;

/// The most earlier ids of a session that a sign-in keeps.
const MAX_FORMER_IDS: usize = 4;

/// The user and the options of a new sign-in, for [`Session::sign_in`](crate::Session::sign_in).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    user: String,
    auth_hash: u64,
    limits: Limits,
    is_remembered: bool,
}

impl SignIn {
    /// A sign-in as this user. The user is named by something that never changes, such as a primary key.
    ///
    /// The sign-in rests on nothing, and lasts as long as its session.
    pub fn new(user: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            auth_hash: digest(b""),
            limits: Limits::default(),
            is_remembered: false,
        }
    }

    /// Sets what the sign-in rests on, such as the hash of the password.
    ///
    /// When the password changes, the sign-in is no longer valid: see [`SignedInUser::matches_auth_hash`]. The session stores
    /// only a short digest of `auth_hash`.
    #[must_use]
    pub fn auth_hash(mut self, auth_hash: impl AsRef<[u8]>) -> Self {
        self.auth_hash = digest(auth_hash.as_ref());
        self
    }

    /// Limits this sign-in in addition to the limits of the session.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Remembers the user in this browser. The session and its cookie live as long as these limits allow, even if the
    /// config sets a shorter age.
    #[must_use]
    pub fn remember(mut self, limits: Limits) -> Self {
        self.is_remembered = true;
        self.limits(limits)
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// The sign-in as the session stores it. `now`: in seconds since 1970.
    pub(crate) fn begin(&self, number: u64, now: i64, client: SignInClient) -> SignedInUser {
        SignedInUser {
            user: self.user.clone(),
            number,
            auth_hash: self.auth_hash,
            signed_in_at: now,
            last_used_at: now,
            limits: self.limits,
            is_remembered: self.is_remembered,
            generation: None,
            client,
            former_ids: Vec::new(),
        }
    }
}

/// How long a sign-in is valid. `None`: as long as its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Seconds since its last use.
    pub idle: Option<u64>,
    /// Seconds since the user signed in.
    pub absolute: Option<u64>,
}

/// Why a sign-in has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was unused for too long.
    Idle,
    /// The user signed in too long ago.
    Absolute,
    /// The user signed out everywhere or changed the password.
    Elsewhere,
}

/// Whether a session is signed in to a realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignInStatus {
    /// Nobody is signed in.
    SignedOut,
    /// This user is signed in.
    SignedIn(SignedInUser),
    /// The sign-in has ended for this reason.
    Ended(Ended),
}

/// The client that last used a sign-in, as far as the config allows it to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignInClient {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

impl SignInClient {
    pub fn new(user_agent: Option<&[u8]>, address: Option<IpAddr>) -> Self {
        let user_agent = user_agent.map(|bytes| {
            let bytes = &bytes[..bytes.len().min(MAX_USER_AGENT)];
            String::from_utf8_lossy(bytes).into_owned()
        });
        Self {
            user_agent,
            address,
        }
    }
}

/// A user who is signed in to a realm, as the session stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedInUser {
    /// Empty in a sign-in of an older release, which is no longer valid.
    #[serde(default)]
    user: String,
    /// A random number that stays the same when the session's id changes.
    #[serde(default)]
    pub(crate) number: u64,
    #[serde(rename = "stamp")]
    auth_hash: u64,
    #[serde(rename = "since")]
    pub(crate) signed_in_at: i64,
    #[serde(rename = "seen")]
    pub(crate) last_used_at: i64,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    is_remembered: bool,
    /// The generation that this sign-in belongs to, in stores that can't list a user's sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<u64>,
    #[serde(default)]
    pub(crate) client: SignInClient,
    /// The session's earlier short ids since the sign-in, the latest one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former_ids: Vec<String>,
}

impl SignedInUser {
    /// The user that was passed to [`SignIn::new`].
    pub fn user(&self) -> &str {
        &self.user
    }

    /// When the user signed in, in seconds since 1970.
    pub fn signed_in_at(&self) -> i64 {
        self.signed_in_at
    }

    /// When the sign-in was last used, in seconds since 1970. Accurate to [`LAST_USED_STEP`].
    pub fn last_used_at(&self) -> i64 {
        self.last_used_at
    }

    /// Whether the sign-in was made with this value of [`SignIn::auth_hash`].
    pub fn matches_auth_hash(&self, auth_hash: impl AsRef<[u8]>) -> bool {
        self.auth_hash == digest(auth_hash.as_ref())
    }

    /// Whether the sign-in is still valid. `now`: in seconds since 1970.
    pub(crate) fn check(&self, now: i64) -> Result<(), Ended> {
        let has_passed = |since: i64, limit: Option<u64>| {
            let age = u64::try_from(now.saturating_sub(since)).unwrap_or(0);
            limit.is_some_and(|limit| age >= limit)
        };
        if self.user.is_empty() {
            Err(Ended::Elsewhere)
        } else if has_passed(self.signed_in_at, self.limits.absolute) {
            Err(Ended::Absolute)
        } else if has_passed(self.last_used_at, self.limits.idle) {
            Err(Ended::Idle)
        } else {
            Ok(())
        }
    }

    /// How long the session must live to remember the user, in seconds from now. `None`: the sign-in sets no such age.
    pub(crate) fn remembered_for(&self, now: i64) -> Option<u64> {
        let age = u64::try_from(now.saturating_sub(self.signed_in_at)).unwrap_or(0);
        let absolute = self.limits.absolute.map(|limit| limit.saturating_sub(age));
        let limits = self.limits.idle.into_iter().chain(absolute);
        limits.min().filter(|_| self.is_remembered)
    }

    /// When this sign-in may have ended, if its session expires at `expires_at`. Both in seconds since 1970.
    pub(crate) fn check_at(&self, expires_at: i64) -> i64 {
        self.ends_at()
            .map_or(expires_at, |ends_at| ends_at.min(expires_at))
    }

    /// When the sign-in ends unless it is used again, in seconds since 1970. `None`: it ends with the session.
    fn ends_at(&self) -> Option<i64> {
        let after = |time: i64, limit: Option<u64>| {
            let limit = i64::try_from(limit?).unwrap_or(i64::MAX);
            Some(time.saturating_add(limit))
        };
        let idle = after(self.last_used_at, self.limits.idle);
        let absolute = after(self.signed_in_at, self.limits.absolute);
        idle.into_iter().chain(absolute).min()
    }

    /// Whether a use at this time must be written. An idle limit makes the precision finer: a quarter of the limit.
    pub(crate) fn is_use_due(&self, now: i64) -> bool {
        let quarter = self.limits.idle.map(|idle| idle / 4);
        let quarter = quarter.and_then(|quarter| i64::try_from(quarter).ok());
        let step = LAST_USED_STEP.min(quarter.unwrap_or(LAST_USED_STEP));
        now.saturating_sub(self.last_used_at) >= step
    }

    /// Records a use by this client.
    pub(crate) fn record_use(&mut self, now: i64, client: SignInClient) {
        self.last_used_at = now.max(self.last_used_at);
        self.client = client;
    }

    /// Records an id that the session leaves.
    pub(crate) fn add_former_id(&mut self, id: &Id) {
        self.former_ids.insert(0, short_id(id));
        self.former_ids.truncate(MAX_FORMER_IDS);
    }

    /// Whether the session has had this short id since the sign-in.
    pub(crate) fn had_short_id(&self, short_id: &str) -> bool {
        self.former_ids.iter().any(|former| former == short_id)
    }
}

/// The key of a user in indexes and in the names of values: a hash, so that a store's keys name nobody and all have the
/// same length.
pub(crate) fn user_key(user: &str) -> String {
    half_hash(format!("user:{user}")).to_string()
}

/// The first 64 bits of a SHA-256.
fn digest(auth_hash: &[u8]) -> u64 {
    let hash = Sha256::digest(auth_hash);
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_ends_after_its_idle_and_absolute_limits() {
        let limits = Limits {
            idle: Some(100),
            absolute: Some(1_000),
        };
        let sign_in = SignIn::new("ada").auth_hash("7").limits(limits);
        let mut sign_in = sign_in.begin(1, 10_000, SignInClient::default());
        assert_eq!(sign_in.check(10_099), Ok(()));
        assert_eq!(sign_in.check(10_100), Err(Ended::Idle));
        assert_eq!(sign_in.ends_at(), Some(10_100));
        assert!(sign_in.matches_auth_hash("7") && !sign_in.matches_auth_hash("8"));
        sign_in.record_use(10_950, SignInClient::default());
        assert_eq!(sign_in.check(10_999), Ok(()));
        assert_eq!(sign_in.check(11_000), Err(Ended::Absolute));
        assert_eq!(sign_in.ends_at(), Some(11_000));
        // A clock that has gone back ends no sign-in.
        assert_eq!(sign_in.check(9_000), Ok(()));
    }

    #[test]
    fn without_limits_a_sign_in_lasts_as_long_as_its_session() {
        let sign_in = SignIn::new("ada").begin(1, 10_000, SignInClient::default());
        assert_eq!(sign_in.check(i64::MAX), Ok(()));
        assert_eq!((sign_in.ends_at(), sign_in.remembered_for(0)), (None, None));
    }

    #[test]
    fn a_long_user_agent_is_truncated() {
        let long = "ü".repeat(1_000);
        let client = SignInClient::new(Some(long.as_bytes()), None);
        assert!(client.user_agent.expect("kept").len() <= MAX_USER_AGENT + 3);
    }
}
