//! The sessions of a user: list them, end one, end the others, end all.

use std::{collections::HashSet, fmt, net::IpAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tower_sessions::{SessionStore, session::Record, session_store};

use super::{SignedInUser, user_key};
use crate::{
    Session, SessionError, SessionManager, SessionState,
    envelope::{Envelope, expires_in, jitter},
    id::short_id,
    manager::Shared,
    queue::RETRY_DEADLINE,
    store::{Store, UserEntry, UserIndex, values},
};

/// Names the value with the generation of a user's sign-ins, in stores that can't list them.
const GENERATION_PREFIX: &str = "sign-ins:";

/// Names the value that exists while sign-ins of a user are being ended.
const ENDING_PREFIX: &str = "ending:";

/// How long that value lives, in seconds: longer than an id change is retried.
const ENDING_AGE: u64 = 60;

/// How often entries whose sessions may have ended are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// After how many seconds an entry whose record can't be decoded is checked again.
const UNREADABLE_RETRY: i64 = 3_600;

/// How many times a list is repeated because one of its sessions may have changed its id.
const MAX_RELISTS: usize = 3;

/// How many entries are checked in one batch.
const CHECK_BATCH: u32 = 200;

/// One of a user's sessions, as [`UserSessions::list`] returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSession {
    /// The session's short id, which is safe to show to people. [`UserSessions::end`] takes it.
    pub short_id: String,
    /// When the user signed in, in seconds since 1970.
    pub signed_in_at: i64,
    /// When the sign-in was last used, in seconds since 1970. Accurate to
    /// [`LAST_USED_STEP`](super::LAST_USED_STEP).
    pub last_used_at: i64,
    /// The browser's `User-Agent`, if [`Config::keep_user_agents`](crate::Config::keep_user_agents) is on.
    pub user_agent: Option<String>,
    /// The address of the last use, if [`Config::keep_addresses`](crate::Config::keep_addresses) is on.
    pub address: Option<IpAddr>,
    /// Whether this is the session of the current request.
    pub is_current: bool,
}

/// The sessions in which a user is signed in to a realm.
///
/// Ending a session deletes it with all its data, on every server, and notifies its subscribers. A store that can't
/// list the sessions only ends their sign-ins: the rest of their data stays.
///
/// A concurrent sign-in is either ended too, or begins afterwards. A session cannot escape by changing its id at the
/// same time.
#[derive(Clone)]
pub struct UserSessions<S: SessionState> {
    shared: Arc<Shared<S>>,
    /// The session of the current request, if there is one.
    session: Option<Session<S>>,
    realm: String,
    user: String,
}

/// Does not show the user.
impl<S: SessionState> fmt::Debug for UserSessions<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("UserSessions(…)")
    }
}

/// An entry of the index with the sign-in that it refers to. The entry's `check_at` is up to date.
struct Indexed {
    entry: UserEntry,
    target: Target,
}

/// What an entry refers to.
enum Target {
    SignedIn(SignedInUser),
    /// The record can't be decoded.
    Unreadable,
    /// There is no such sign-in any more: it has ended, or its session has moved to an id with an entry of its own.
    Gone,
}

impl Indexed {
    fn sign_in(&self) -> Option<&SignedInUser> {
        match &self.target {
            Target::SignedIn(sign_in) => Some(sign_in),
            Target::Unreadable | Target::Gone => None,
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.target, Target::Gone)
    }
}

impl<S: SessionState> SessionManager<S> {
    /// The sessions in which a user is signed in to a realm.
    ///
    /// ```
    /// # use tally_session::{Map, SessionError, SessionManager};
    /// # async fn password_was_reset(sessions: &SessionManager<Map>) -> Result<(), SessionError> {
    /// sessions.sessions_of("members", "ada").end_all().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sessions_of(
        &self,
        realm: impl Into<String>,
        user: impl Into<String>,
    ) -> UserSessions<S> {
        UserSessions {
            shared: Arc::clone(&self.shared),
            session: None,
            realm: realm.into(),
            user: user.into(),
        }
    }
}

impl<S: SessionState> Session<S> {
    /// All the sessions of the user who is signed in to a realm in this one.
    ///
    /// # Errors
    /// [`SessionError::SignedOut`] when nobody is signed in. Also when the store fails.
    pub async fn user_sessions(&self, realm: &str) -> Result<UserSessions<S>, SessionError> {
        let sign_in = self.signed_in(realm).await?;
        let sign_in = sign_in.ok_or(SessionError::SignedOut)?;
        Ok(UserSessions {
            shared: Arc::clone(self.shared()),
            session: Some(self.clone()),
            realm: realm.to_owned(),
            user: sign_in.user().to_owned(),
        })
    }

    /// Ends the user's oldest sign-ins after a new one, if the config allows no more. A failure is only logged: the
    /// next sign-in tries again.
    pub(crate) async fn end_surplus(&self, realm: &str, user: &str) {
        let shared = self.shared();
        let Some(max) = shared.config.max_user_sessions else {
            return;
        };
        let sessions = UserSessions {
            shared: Arc::clone(shared),
            session: Some(self.clone()),
            realm: realm.to_owned(),
            user: user.to_owned(),
        };
        if sessions.can_list()
            && let Err(error) = sessions.end_surplus(max).await
        {
            tracing::warn!(%error, "a user's oldest sign-ins could not be ended");
        }
    }
}

impl<S: SessionState> UserSessions<S> {
    /// Whether the store can list a user's sessions. Every store can end all of them.
    pub fn can_list(&self) -> bool {
        self.shared.store.users().is_some()
    }

    /// Lists the sessions, the most recently used first.
    ///
    /// # Errors
    /// [`SessionError::NoIndex`] if the store can't list them. Also when the store fails.
    pub async fn list(&self) -> Result<Vec<UserSession>, SessionError> {
        let (index, current) = (self.index()?, self.current());
        let mut indexed = self.indexed(index).await?;
        for _ in 0..MAX_RELISTS {
            if !indexed.iter().any(Indexed::is_gone) {
                break;
            }
            // A session that is gone may have moved to a new id.
            indexed = self.indexed(index).await?;
        }
        let session = |indexed: &Indexed| {
            let sign_in = indexed.sign_in()?.clone();
            Some(UserSession {
                short_id: short_id(&indexed.entry.id),
                signed_in_at: sign_in.signed_in_at,
                last_used_at: sign_in.last_used_at,
                is_current: current == Some(sign_in.number),
                user_agent: sign_in.client.user_agent,
                address: sign_in.client.address,
            })
        };
        // During an id change, two records have the same sign-in.
        let mut seen = HashSet::new();
        indexed.retain(|indexed| indexed.is_gone() || seen.insert(indexed.entry.number));
        let mut sessions: Vec<UserSession> = indexed.iter().filter_map(session).collect();
        sessions.sort_by_key(|session| std::cmp::Reverse(session.last_used_at));
        Ok(sessions)
    }

    /// Ends the session with a short id, even if its id has changed since it was listed. Returns `false` if there is
    /// none.
    ///
    /// # Errors
    /// As [`UserSessions::list`].
    pub async fn end(&self, short_id: &str) -> Result<bool, SessionError> {
        let is_target = |indexed: &Indexed| {
            let had_id = |sign_in: &SignedInUser| sign_in.had_short_id(short_id);
            self::short_id(&indexed.entry.id) == short_id || indexed.sign_in().is_some_and(had_id)
        };
        Ok(self.end_where(is_target).await? > 0)
    }

    /// Ends all sessions except the current one, and returns how many there were. `None`: the store can't count them.
    ///
    /// # Errors
    /// [`SessionError::SignedOut`] if there is no current session. Also when the store fails.
    pub async fn end_others(&self) -> Result<Option<u64>, SessionError> {
        let (Some(session), Some(current)) = (&self.session, self.current()) else {
            return Err(SessionError::SignedOut);
        };
        if self.can_list() {
            let is_other = |indexed: &Indexed| indexed.entry.number != current;
            return self.end_where(is_other).await.map(Some);
        }
        let generation = self.next_generation().await?;
        session.join_generation(&self.realm, generation).await?;
        Ok(None)
    }

    /// Ends all sessions, including the current one, and returns how many there were. `None`: the store can't count
    /// them.
    ///
    /// # Errors
    /// When the store fails. Some sessions may have ended.
    pub async fn end_all(&self) -> Result<Option<u64>, SessionError> {
        let ended = if self.can_list() {
            Some(self.end_where(|_| true).await?)
        } else {
            self.next_generation().await?;
            None
        };
        if let Some(session) = &self.session {
            session.flush().await?;
        }
        Ok(ended)
    }

    /// Ends the oldest sign-ins so that at most `max` are left. The current one stays.
    async fn end_surplus(&self, max: u32) -> Result<(), SessionError> {
        let mut entries = self.entries(self.index()?).await?;
        let current = self.current();
        entries.sort_by_key(|entry| {
            let is_current = current == Some(entry.number);
            std::cmp::Reverse((is_current, entry.signed_in_at, entry.number))
        });
        let surplus = entries.iter().skip(max as usize);
        let surplus: HashSet<u64> = surplus.map(|entry| entry.number).collect();
        if surplus.is_empty() {
            return Ok(());
        }
        self.end_where(|indexed| surplus.contains(&indexed.entry.number))
            .await
            .map(|_| ())
    }

    fn index(&self) -> Result<&dyn UserIndex, SessionError> {
        self.shared.store.users().ok_or(SessionError::NoIndex)
    }

    /// The number of the current session's sign-in.
    fn current(&self) -> Option<u64> {
        let session = self.session.as_ref()?;
        let request = session.state();
        let sign_in = request.latest()?.envelope.sign_ins.get(&self.realm)?;
        Some(sign_in.number)
    }

    async fn entries(&self, index: &dyn UserIndex) -> session_store::Result<Vec<UserEntry>> {
        let mut entries = index.entries(&user_key(&self.user)).await?;
        entries.retain(|entry| entry.realm == self.realm);
        Ok(entries)
    }

    /// The user's entries in the index with their sign-ins. Removes stale entries from the index.
    async fn indexed(&self, index: &dyn UserIndex) -> Result<Vec<Indexed>, SessionError> {
        let entries = self.entries(index).await?;
        self.shared.resolve(index, entries).await
    }

    /// Ends the sessions that match now, even if they change their ids at the same time. Returns how many there were.
    ///
    /// An id change adds the index entry of the new id before it deletes the old record. So the session is found the
    /// next time that the index is read. The loop ends when the index has no target left.
    async fn end_where(&self, is_target: impl Fn(&Indexed) -> bool) -> Result<u64, SessionError> {
        let index = self.index()?;
        let deadline = Instant::now() + RETRY_DEADLINE;
        let name = format!("{ENDING_PREFIX}{}", user_key(&self.user));
        let store = self.shared.store.as_ref();
        values::set(store, &name, "", expires_in(ENDING_AGE)).await?;
        // An incomplete index would leave sessions out. The check costs one query.
        self.shared.backfill_users(index).await?;
        let mut targets: Option<HashSet<u64>> = None;
        let mut ended = HashSet::new();
        loop {
            let mut indexed = self.indexed(index).await?;
            let targets = targets.get_or_insert_with(|| {
                let targets = indexed.iter().filter(|indexed| is_target(indexed));
                targets.map(|indexed| indexed.entry.number).collect()
            });
            indexed.retain(|indexed| targets.contains(&indexed.entry.number));
            if indexed.is_empty() {
                self.shared.recorder.revoked.inc_by(ended.len() as u64);
                return Ok(ended.len() as u64);
            }
            let deleted = self.delete_all(&indexed, &mut ended).await;
            if Instant::now() >= deadline {
                let error = deleted.err().map(SessionError::indeterminate);
                return Err(error.unwrap_or(SessionError::Conflict));
            }
            if deleted.is_err() {
                sleep(jitter()).await;
            }
        }
    }

    /// Deletes the sessions that exist, and adds the numbers of their sign-ins to `ended`.
    async fn delete_all(
        &self,
        indexed: &[Indexed],
        ended: &mut HashSet<u64>,
    ) -> Result<(), SessionError> {
        let existing = indexed.iter().filter(|indexed| !indexed.is_gone());
        let existing: Vec<&UserEntry> = existing.map(|indexed| &indexed.entry).collect();
        let deleted = join_all(existing.iter().map(|entry| self.shared.delete(entry.id))).await;
        let mut result = Ok(());
        for (entry, deleted) in existing.into_iter().zip(deleted) {
            match deleted {
                Ok(()) => _ = ended.insert(entry.number),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Starts a new generation of sign-ins, in a store that can't list them. Sign-ins of an older generation are no
    /// longer valid.
    async fn next_generation(&self) -> Result<u64, SessionError> {
        self.shared
            .set_new_generation(&self.realm, &self.user)
            .await
    }
}

fn generation_name(realm: &str, user: &str) -> String {
    format!("{GENERATION_PREFIX}{}:{realm}", user_key(user))
}

impl<S: SessionState> Shared<S> {
    /// The current generation of a user's sign-ins. `None`: there is none, so no sign-in is valid.
    pub(crate) async fn generation(
        &self,
        realm: &str,
        user: &str,
    ) -> Result<Option<u64>, SessionError> {
        let value = values::get(self.store.as_ref(), &generation_name(realm, user)).await?;
        Ok(value.and_then(|value| value.parse().ok()))
    }

    /// The current generation of a user's sign-ins, or a new one if there is none.
    pub(crate) async fn generation_or_new(
        &self,
        realm: &str,
        user: &str,
    ) -> Result<u64, SessionError> {
        match self.generation(realm, user).await? {
            Some(generation) => Ok(generation),
            None => self.set_new_generation(realm, user).await,
        }
    }

    async fn set_new_generation(&self, realm: &str, user: &str) -> Result<u64, SessionError> {
        let new = getrandom::u64()?;
        // The value must outlive every sign-in: without it none is valid.
        let never = time::macros::datetime!(9000-01-01 0:00 UTC);
        let name = generation_name(realm, user);
        values::set(self.store.as_ref(), &name, &new.to_string(), never).await?;
        Ok(new)
    }

    /// Whether sign-ins of a user of this session are being ended, or were a moment ago.
    pub(crate) async fn is_ending(&self, envelope: &Envelope<S>) -> Result<bool, SessionError> {
        for sign_in in envelope.sign_ins.values() {
            let name = format!("{ENDING_PREFIX}{}", user_key(sign_in.user()));
            if values::get(self.store.as_ref(), &name).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Loads the sign-ins that entries refer to. Removes stale entries from the index.
    async fn resolve(
        &self,
        index: &dyn UserIndex,
        entries: Vec<UserEntry>,
    ) -> Result<Vec<Indexed>, SessionError> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let records = join_all(entries.iter().map(|entry| self.store.load(&entry.id))).await;
        let mut indexed = Vec::new();
        for (entry, record) in entries.into_iter().zip(records) {
            indexed.push(match record {
                Ok(record) => resolve::<S>(entry, record.as_ref(), now),
                Err(session_store::Error::Decode(_)) => Indexed {
                    entry: UserEntry {
                        check_at: now + UNREADABLE_RETRY,
                        ..entry
                    },
                    target: Target::Unreadable,
                },
                Err(error) => return Err(error.into()),
            });
        }
        let gone = indexed.iter().filter(|indexed| indexed.is_gone());
        let gone: Vec<UserEntry> = gone.map(|indexed| indexed.entry.clone()).collect();
        if !gone.is_empty() {
            index.remove(&gone).await?;
        }
        Ok(indexed)
    }
}

/// Finds the sign-in that an entry refers to in the record of its session.
fn resolve<S: SessionState>(entry: UserEntry, record: Option<&Record>, now: i64) -> Indexed {
    let found = record.and_then(|record| {
        let envelope = Envelope::<S>::of(record)?;
        let sign_in = envelope.sign_ins.get(&entry.realm)?;
        let is_same = sign_in.number == entry.number && user_key(sign_in.user()) == entry.user;
        let check_at = sign_in.check_at(record.expiry_date.unix_timestamp());
        (is_same && sign_in.check(now).is_ok()).then(|| (check_at, sign_in.clone()))
    });
    match found {
        Some((check_at, sign_in)) => Indexed {
            entry: UserEntry { check_at, ..entry },
            target: Target::SignedIn(sign_in),
        },
        None => Indexed {
            entry,
            target: Target::Gone,
        },
    }
}

/// Maintains the index of users for as long as the server runs: removes sessions that have ended, and backfills the
/// index if the store has lost it.
pub(crate) async fn check_entries<S: SessionState>(shared: Arc<Shared<S>>) {
    if shared.store.users().is_none() {
        return;
    }
    let mut ticks = tokio::time::interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // The store logs its outages itself.
        if let Err(error) = shared.check_users().await {
            tracing::debug!(%error, "the index of users could not be maintained");
        }
    }
}

impl<S: SessionState> Shared<S> {
    async fn check_users(&self) -> Result<(), SessionError> {
        let Some(index) = self.store.users() else {
            return Ok(());
        };
        if self.has_sign_ins() {
            self.backfill_users(index).await?;
        }
        loop {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            let due = index.due(now, CHECK_BATCH).await?;
            let is_last = due.len() < CHECK_BATCH as usize;
            let mut checked = self.resolve(index, due).await?;
            checked.retain(|indexed| !indexed.is_gone());
            let updated: Vec<UserEntry> =
                checked.into_iter().map(|indexed| indexed.entry).collect();
            if !updated.is_empty() {
                index.add(&updated).await?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Adds the sign-ins of all sessions to the index, unless it is complete. The store may have lost it, or an older
    /// release may not have written it.
    async fn backfill_users(&self, index: &dyn UserIndex) -> Result<(), SessionError> {
        if index.is_complete().await? {
            return Ok(());
        }
        let Some(sessions) = self.store.index() else {
            return Ok(());
        };
        let mut scan = sessions.scan().await?;
        let mut began = Instant::now();
        while let Some(records) = scan.next().await? {
            let entries = records.iter().filter_map(|record| {
                let envelope = Envelope::<S>::of(record)?;
                Some(envelope.user_entries(record.id, record.expiry_date.unix_timestamp()))
            });
            let entries: Vec<UserEntry> = entries.flatten().collect();
            if !entries.is_empty() {
                index.add(&entries).await?;
            }
            // Leave the store half of the time for requests.
            sleep(began.elapsed()).await;
            began = Instant::now();
        }
        // If the store was restarted during the scan, the next check scans again.
        if scan.has_seen_all() {
            index.set_complete().await?;
        }
        Ok(())
    }
}
