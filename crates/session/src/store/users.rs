//! The index of users, which finds the sessions that are signed in as a user.

use tower_sessions::{session::Id, session_store};

/// A user's sign-in, as stores keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserEntry {
    /// A hash of the user, in base64 characters.
    pub user: String,
    /// The signed-in session.
    pub id: Id,
    /// The realm of the sign-in.
    pub realm: String,
    /// The number of the sign-in, which stays the same when the session's id changes.
    pub number: u64,
    /// The time of the sign-in, in seconds since 1970.
    pub signed_in_at: i64,
    /// When to check whether the session has ended, in seconds since 1970.
    pub check_at: i64,
}

/// An index of a store's sessions by user.
///
/// Once [`UserIndex::add`] has returned, every server finds the entry. An entry only shows where to look: whether the
/// session is signed in depends on its record alone.
#[async_trait::async_trait]
pub trait UserIndex: Send + Sync {
    /// Adds entries. An entry replaces one of the same user, session and realm.
    ///
    /// # Errors
    /// When the store fails. Some of the entries may have been added.
    async fn add(&self, entries: &[UserEntry]) -> session_store::Result<()>;

    /// Removes entries. A missing entry is not an error.
    ///
    /// # Errors
    /// When the store fails. Some of the entries may have been removed.
    async fn remove(&self, entries: &[UserEntry]) -> session_store::Result<()>;

    /// Returns all entries of a user.
    ///
    /// # Errors
    /// When the store fails.
    async fn entries(&self, user: &str) -> session_store::Result<Vec<UserEntry>>;

    /// Returns up to `limit` entries whose `check_at` is `now` or earlier. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// When the store fails.
    async fn due(&self, now: i64, limit: u32) -> session_store::Result<Vec<UserEntry>>;

    /// The number of entries.
    ///
    /// # Errors
    /// When the store fails.
    async fn count(&self) -> session_store::Result<u64>;

    /// Whether the index is complete. If the store loses the index, this is `false` until the next
    /// [`UserIndex::set_complete`].
    ///
    /// # Errors
    /// When the store fails.
    async fn is_complete(&self) -> session_store::Result<bool>;

    /// Marks the index as complete.
    ///
    /// # Errors
    /// When the store fails.
    async fn set_complete(&self) -> session_store::Result<()>;
}
