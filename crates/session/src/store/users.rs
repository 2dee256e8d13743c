//! What an engine keeps so that the sessions of a user can be found: which sessions are signed in as whom.

use tower_sessions::{session::Id, session_store};

/// A sign-in of a user, as an engine keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserEntry {
    /// Stands for the user: a hash, in characters of base64.
    pub user: String,
    /// The session that is signed in.
    pub id: Id,
    /// The realm that it is signed in to.
    pub realm: String,
    /// The sign-in's number, which stays when the session's id changes.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub signed_in_at: i64,
    /// When the session is looked at again, because it may have ended, in seconds since 1970.
    pub check_at: i64,
}

/// An engine's index of sessions by user.
///
/// An entry is there as soon as [`UserIndex::add`] has returned, for every server. An entry tells where to look. The
/// session's record tells what is true.
#[async_trait::async_trait]
pub trait UserIndex: Send + Sync {
    /// Adds entries, or replaces the ones of the same user, session and realm.
    ///
    /// # Errors
    /// When the store fails; some may have been added.
    async fn add(&self, entries: &[UserEntry]) -> session_store::Result<()>;

    /// Removes entries. One that is not there is no error.
    ///
    /// # Errors
    /// When the store fails; some may have been removed.
    async fn remove(&self, entries: &[UserEntry]) -> session_store::Result<()>;

    /// All entries of a user.
    ///
    /// # Errors
    /// When the store fails.
    async fn entries(&self, user: &str) -> session_store::Result<Vec<UserEntry>>;

    /// Up to `limit` entries whose `check_at` is not after `now`, in seconds since 1970.
    ///
    /// # Errors
    /// When the store fails.
    async fn due(&self, now: i64, limit: u32) -> session_store::Result<Vec<UserEntry>>;

    /// How many entries there are.
    ///
    /// # Errors
    /// When the store fails.
    async fn count(&self) -> session_store::Result<u64>;

    /// Whether the index has been completed since the store has it. One that the store has lost has not.
    ///
    /// # Errors
    /// When the store fails.
    async fn is_complete(&self) -> session_store::Result<bool>;

    /// From now on the index is complete.
    ///
    /// # Errors
    /// When the store fails.
    async fn set_complete(&self) -> session_store::Result<()>;
}
