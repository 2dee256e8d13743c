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

/// Before a user's key: the number of the generation of sign-ins, in stores that can't list them.
const GENERATION: &str = "sign-ins:";

/// Before a user's key: some sign-ins are being ended.
const ENDING: &str = "ending:";

/// How long that is known, in seconds: longer than a change of an id is tried.
const ENDING_AGE: u64 = 60;

/// How often entries are looked at whose session may have ended.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// When an entry is looked at again whose record can't be read, in seconds from now.
const UNREADABLE_AGAIN: i64 = 3_600;

/// How many times a list is made again because something in it may have got another id.
const MOST_LOOKS: usize = 3;

/// This many entries are looked at in one step.
const CHECKED_TOGETHER: u32 = 200;

/// A session of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSession {
    /// What people may be shown of the session's id. [`UserSessions::end`] takes it.
    pub short_id: String,
    /// When the user signed in, in seconds since 1970.
    pub signed_in_at: i64,
    /// When the sign-in was last used, in seconds since 1970, exact to [`LAST_USED_STEP`](super::LAST_USED_STEP).
    pub last_used_at: i64,
    /// What the browser calls itself, where [`Config::keep_user_agents`](crate::Config::keep_user_agents) says so.
    pub user_agent: Option<String>,
    /// The address of the last use, where [`Config::keep_addresses`](crate::Config::keep_addresses) says so.
    pub address: Option<IpAddr>,
    /// It is the session that asks.
    pub is_current: bool,
}

/// The sessions in which a user is signed in to a realm.
///
/// A session that is ended is gone at the next request of its browser, on every server, with everything that it
/// keeps. Its open pages are told at once.
///
/// A sign-in that races with this is ended, too, or begins after it. A session whose id changes at the same time does
/// not escape.
#[derive(Clone)]
pub struct UserSessions<S: SessionState> {
    shared: Arc<Shared<S>>,
    /// The session that asks, where one does.
    session: Option<Session<S>>,
    realm: String,
    user: String,
}

/// Shows no user.
impl<S: SessionState> fmt::Debug for UserSessions<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("UserSessions(…)")
    }
}

/// An entry of the index, as it should be, and what it has led to.
struct Indexed {
    entry: UserEntry,
    target: Target,
}

/// What an entry leads to.
enum Target {
    SignedIn(SignedInUser),
    /// The record can't be read.
    Unreadable,
    /// The session is not signed in like this any more, or has ended, or goes on under an id that has an entry of its
    /// own by now.
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
    /// The sessions in which this user is signed in to this realm.
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
    /// The sessions of this session's user in a realm.
    ///
    /// # Errors
    /// [`SessionError::SignedOut`] where nobody is, and when the store can't be asked.
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

    /// After a sign-in, ends the user's oldest ones where the config allows no more. A failure here ends nothing else:
    /// the next sign-in tries again.
    pub(crate) async fn end_surplus(&self, realm: &str, user: &str) {
        let shared = self.shared();
        let Some(most) = shared.config.max_user_sessions else {
            return;
        };
        let sessions = UserSessions {
            shared: Arc::clone(shared),
            session: Some(self.clone()),
            realm: realm.to_owned(),
            user: user.to_owned(),
        };
        if sessions.can_list()
            && let Err(error) = sessions.end_surplus(most).await
        {
            tracing::warn!(%error, "a user's oldest sign-ins could not be ended");
        }
    }
}

impl<S: SessionState> UserSessions<S> {
    /// Whether the store can list them. It can end all of them in any case.
    pub fn can_list(&self) -> bool {
        self.shared.store.users().is_some()
    }

    /// All of them, the last used first.
    ///
    /// # Errors
    /// [`SessionError::NoIndex`] where the store can't list them, and when it can't be asked.
    pub async fn list(&self) -> Result<Vec<UserSession>, SessionError> {
        let (index, current) = (self.index()?, self.current());
        let mut indexed = self.indexed(index).await?;
        for _ in 0..MOST_LOOKS {
            if !indexed.iter().any(Indexed::is_gone) {
                break;
            }
            // It may have got another id.
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
        // While an id changes, two records have one sign-in.
        let mut seen = HashSet::new();
        indexed.retain(|indexed| indexed.is_gone() || seen.insert(indexed.entry.number));
        let mut sessions: Vec<UserSession> = indexed.iter().filter_map(session).collect();
        sessions.sort_by_key(|session| std::cmp::Reverse(session.last_used_at));
        Ok(sessions)
    }

    /// Ends the session of this short id, also where its id has changed since it was listed. `false`: there is none.
    ///
    /// # Errors
    /// As [`UserSessions::list`].
    pub async fn end(&self, short_id: &str) -> Result<bool, SessionError> {
        let is_meant = |indexed: &Indexed| {
            let had = |sign_in: &SignedInUser| sign_in.had(short_id);
            self::short_id(&indexed.entry.id) == short_id || indexed.sign_in().is_some_and(had)
        };
        Ok(self.end_where(is_meant).await? > 0)
    }

    /// Ends all but the one that asks, and returns how many; `None`: the store can't tell.
    ///
    /// # Errors
    /// [`SessionError::SignedOut`] where no session asks, and when the store can't be asked.
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

    /// Ends all of them, and returns how many; `None`: the store can't tell. Where a session asks, it ends, too.
    ///
    /// # Errors
    /// When the store can't be asked; some may have ended then.
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

    /// Ends the oldest sign-ins but the one that asks where there are more than `most`.
    async fn end_surplus(&self, most: u32) -> Result<(), SessionError> {
        let mut entries = self.entries(self.index()?).await?;
        let current = self.current();
        entries.sort_by_key(|entry| {
            let is_current = current == Some(entry.number);
            std::cmp::Reverse((is_current, entry.signed_in_at, entry.number))
        });
        let surplus = entries.iter().skip(most as usize);
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

    /// The number of the sign-in that asks.
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

    /// What the index leads to. Entries that lead to nothing leave it.
    async fn indexed(&self, index: &dyn UserIndex) -> Result<Vec<Indexed>, SessionError> {
        let entries = self.entries(index).await?;
        self.shared.follow(index, entries).await
    }

    /// Ends those of the sessions that are there now and meant, wherever they go meanwhile, and returns how many.
    ///
    /// A session whose id changes has an entry for the new id before the old record is deleted. So it is in the next
    /// look at the index, unless nothing of it was left in this one.
    async fn end_where(&self, is_meant: impl Fn(&Indexed) -> bool) -> Result<u64, SessionError> {
        let index = self.index()?;
        let give_up = Instant::now() + RETRY_DEADLINE;
        let announced = format!("{ENDING}{}", user_key(&self.user));
        values::set(
            self.shared.store.as_ref(),
            &announced,
            "",
            expires_in(ENDING_AGE),
        )
        .await?;
        // Nobody is left out, at the price of one more question.
        self.shared.complete_users(index).await?;
        let mut meant: Option<HashSet<u64>> = None;
        let mut ended = HashSet::new();
        loop {
            let mut indexed = self.indexed(index).await?;
            let meant = meant.get_or_insert_with(|| {
                let meant = indexed.iter().filter(|indexed| is_meant(indexed));
                meant.map(|indexed| indexed.entry.number).collect()
            });
            indexed.retain(|indexed| meant.contains(&indexed.entry.number));
            if indexed.is_empty() {
                self.shared.recorder.revoked.inc_by(ended.len() as u64);
                return Ok(ended.len() as u64);
            }
            let deleted = self.delete_all(&indexed, &mut ended).await;
            if Instant::now() >= give_up {
                let error = deleted.err().map(SessionError::indeterminate);
                return Err(error.unwrap_or(SessionError::Conflict));
            }
            if deleted.is_err() {
                sleep(jitter()).await;
            }
        }
    }

    /// Deletes the sessions that are there. `ended` gets their sign-ins' numbers.
    async fn delete_all(
        &self,
        indexed: &[Indexed],
        ended: &mut HashSet<u64>,
    ) -> Result<(), SessionError> {
        let there = indexed.iter().filter(|indexed| !indexed.is_gone());
        let there: Vec<&UserEntry> = there.map(|indexed| &indexed.entry).collect();
        let deleted = join_all(there.iter().map(|entry| self.shared.delete(entry.id))).await;
        let mut result = Ok(());
        for (entry, deleted) in there.into_iter().zip(deleted) {
            match deleted {
                Ok(()) => _ = ended.insert(entry.number),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Ends every sign-in in a store that can't list them: those of another generation hold no longer.
    async fn next_generation(&self) -> Result<u64, SessionError> {
        self.shared.draw_generation(&self.realm, &self.user).await
    }
}

/// The name of the value with the generation of a user's sign-ins.
fn generation_name(realm: &str, user: &str) -> String {
    format!("{GENERATION}{}:{realm}", user_key(user))
}

impl<S: SessionState> Shared<S> {
    /// The generation of a user's sign-ins; `None`: there is none, so no sign-in holds.
    pub(crate) async fn generation(
        &self,
        realm: &str,
        user: &str,
    ) -> Result<Option<u64>, SessionError> {
        let value = values::get(self.store.as_ref(), &generation_name(realm, user)).await?;
        Ok(value.and_then(|value| value.parse().ok()))
    }

    /// The same, made where there is none.
    pub(crate) async fn generation_or_new(
        &self,
        realm: &str,
        user: &str,
    ) -> Result<u64, SessionError> {
        match self.generation(realm, user).await? {
            Some(generation) => Ok(generation),
            None => self.draw_generation(realm, user).await,
        }
    }

    async fn draw_generation(&self, realm: &str, user: &str) -> Result<u64, SessionError> {
        let new = getrandom::u64()?;
        // Outlives every sign-in. Without it none holds.
        let never = time::macros::datetime!(9000-01-01 0:00 UTC);
        let name = generation_name(realm, user);
        values::set(self.store.as_ref(), &name, &new.to_string(), never).await?;
        Ok(new)
    }

    /// Whether sign-ins of one of these users were being ended a moment ago.
    pub(crate) async fn is_ending(&self, envelope: &Envelope<S>) -> Result<bool, SessionError> {
        for sign_in in envelope.sign_ins.values() {
            let name = format!("{ENDING}{}", user_key(sign_in.user()));
            if values::get(self.store.as_ref(), &name).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The sign-ins that these entries lead to. Entries that lead to nothing leave the index.
    async fn follow(
        &self,
        index: &dyn UserIndex,
        entries: Vec<UserEntry>,
    ) -> Result<Vec<Indexed>, SessionError> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let records = join_all(entries.iter().map(|entry| self.store.load(&entry.id))).await;
        let mut indexed = Vec::new();
        for (entry, record) in entries.into_iter().zip(records) {
            indexed.push(match record {
                Ok(record) => follow::<S>(entry, record.as_ref(), now),
                Err(session_store::Error::Decode(_)) => Indexed {
                    entry: UserEntry {
                        check_at: now + UNREADABLE_AGAIN,
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

/// What an entry leads to, by the record of its session.
fn follow<S: SessionState>(entry: UserEntry, record: Option<&Record>, now: i64) -> Indexed {
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

/// Keeps the index of users free of sessions that have ended, and completes it where the store has lost it, for as
/// long as the server runs.
pub(crate) async fn check_entries<S: SessionState>(shared: Arc<Shared<S>>) {
    if shared.store.users().is_none() {
        return;
    }
    let mut turns = tokio::time::interval(CHECK_INTERVAL);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        // The store logs its outages itself.
        if let Err(error) = shared.check_users().await {
            tracing::debug!(%error, "the index of users could not be looked after");
        }
    }
}

impl<S: SessionState> Shared<S> {
    async fn check_users(&self) -> Result<(), SessionError> {
        let Some(index) = self.store.users() else {
            return Ok(());
        };
        if self.has_sign_ins() {
            self.complete_users(index).await?;
        }
        loop {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            let due = index.due(now, CHECKED_TOGETHER).await?;
            let is_last = due.len() < CHECKED_TOGETHER as usize;
            let mut looked_at = self.follow(index, due).await?;
            looked_at.retain(|indexed| !indexed.is_gone());
            let again: Vec<UserEntry> =
                looked_at.into_iter().map(|indexed| indexed.entry).collect();
            if !again.is_empty() {
                index.add(&again).await?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Goes through all sessions where the store has lost the index, or has had none yet.
    async fn complete_users(&self, index: &dyn UserIndex) -> Result<(), SessionError> {
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
            // Requests come first: the store rests as long as it worked for this.
            sleep(began.elapsed()).await;
            began = Instant::now();
        }
        // One that was passed over because the store was restarted meanwhile is found the next time.
        if scan.has_seen_all() {
            index.set_complete().await?;
        }
        Ok(())
    }
}
