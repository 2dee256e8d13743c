//! An operator's methods for all sessions: count, list, search and revoke them.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{
    Session, SessionError, SessionManager,
    auth::user_key,
    envelope::Envelope,
    id::{SHORT_ID_LENGTH, is_short_id, short_id},
    login_token,
    manager::Shared,
    revocation::Revocation,
    state::{SessionState, counter_names},
    store::{
        EncodedRecord, Store,
        index::{History, SessionIndex},
    },
};

/// How often statistics are recorded.
const RECORD_INTERVAL: Duration = Duration::from_secs(1);

/// How often the index of sessions is checked for completeness.
const BACKFILL_INTERVAL: Duration = Duration::from_secs(300);

/// How many times a conditional deletion is tried against concurrent writes of the session.
const MAX_ATTEMPTS: usize = 8;

/// How many times a revocation of all sessions is tried while the store fails.
const MAX_SCANS: usize = 10;

/// The wait before a failed revocation starts again.
const SCAN_RETRY: Duration = Duration::from_secs(2);

/// A session in an operator's list.
#[derive(Clone, Debug)]
pub struct Listed<S> {
    id: Id,
    /// The session's short id, which is safe to show to people.
    pub short_id: String,
    /// When the session expires unless it is written again, in seconds since 1970.
    pub expires_at: i64,
    /// The session's content. `None`: it can't be decoded.
    pub envelope: Option<Envelope<S>>,
}

impl<S: SessionState> Listed<S> {
    fn of(record: &Record) -> Self {
        Self {
            id: record.id,
            short_id: short_id(&record.id),
            expires_at: record.expiry_date.unix_timestamp(),
            envelope: Envelope::of(record),
        }
    }

    fn is_signed_in_as(&self, user: &str) -> bool {
        let envelope = self.envelope.as_ref();
        envelope.is_some_and(|envelope| envelope.sign_ins().any(|(_, other)| other.user() == user))
    }
}

/// The statistics of [`SessionManager::statistics`].
#[derive(Clone, Debug)]
pub struct Statistics {
    pub history: History,
    /// `true`: the history covers all servers and survives a restart. `false`: it covers only this server since it
    /// started.
    pub shared: bool,
    /// The names of the application's own counters, in the order of [`Counts::counters`](crate::store::Counts).
    pub counters: Vec<&'static str>,
}

impl<S: SessionState> SessionManager<S> {
    /// The number of sessions. `None`: the store can't count them.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn count(&self) -> Result<Option<u64>, SessionError> {
        match self.shared.index() {
            Some(index) => Ok(Some(index.count().await?)),
            None => Ok(None),
        }
    }

    /// The number of sign-ins. `None`: the store can't count them.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn count_sign_ins(&self) -> Result<Option<u64>, SessionError> {
        match self.shared.store.users() {
            Some(users) => Ok(Some(users.count().await?)),
            None => Ok(None),
        }
    }

    /// Whether a change that one server makes reaches the open pages of the others.
    pub fn notifies_servers(&self) -> bool {
        self.shared.store.change_feed().is_some()
    }

    /// Lists up to `take` sessions after the first `skip`, the last to expire first. `None`: the store can't list them.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn page(&self, skip: u64, take: u32) -> Result<Option<Vec<Listed<S>>>, SessionError> {
        match self.shared.index() {
            Some(index) => Ok(Some(listed(&index.page(skip, take).await?))),
            None => Ok(None),
        }
    }

    /// Finds up to `take` sessions whose short ids begin with `beginning`. `None`: the store can't list sessions.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn search(
        &self,
        beginning: &str,
        take: u32,
    ) -> Result<Option<Vec<Listed<S>>>, SessionError> {
        let Some(index) = self.shared.index() else {
            return Ok(None);
        };
        if !is_short_id(beginning) {
            return Ok(Some(Vec::new()));
        }
        Ok(Some(listed(&index.search(beginning, take).await?)))
    }

    /// Finds the session with a short id. `None`: there is none, or the store can't list sessions.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn with_short_id(&self, short_id: &str) -> Result<Option<Listed<S>>, SessionError> {
        if short_id.len() != SHORT_ID_LENGTH {
            return Ok(None);
        }
        let found = self.search(short_id, 1).await?;
        Ok(found.and_then(|found| found.into_iter().next()))
    }

    /// Finds up to `take` sessions that are signed in as a user, in any realm. `None`: the store can't find them.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn search_user(
        &self,
        user: &str,
        take: usize,
    ) -> Result<Option<Vec<Listed<S>>>, SessionError> {
        let Some(users) = self.shared.store.users() else {
            return Ok(None);
        };
        let mut ids = Vec::new();
        for entry in users.entries(&user_key(user)).await? {
            if !ids.contains(&entry.id) {
                ids.push(entry.id);
            }
        }
        ids.truncate(take);
        let loaded = join_all(ids.iter().map(|id| self.shared.store.load(id))).await;
        let mut records = Vec::new();
        for record in loaded {
            match record {
                Ok(record) => records.extend(record),
                // A record that can't be decoded must not hide the others.
                Err(session_store::Error::Decode(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut found = listed(&records);
        found.retain(|session: &Listed<S>| session.is_signed_in_as(user));
        Ok(Some(found))
    }

    /// Ends a session and notifies its subscribers. Returns `false` if it has already ended or has moved to a new id.
    ///
    /// # Errors
    /// When the store fails. After [`SessionError::Indeterminate`] the session may have ended.
    pub async fn revoke(&self, session: &Listed<S>) -> Result<bool, SessionError> {
        let deleted = self.shared.delete_existing(session.id).await;
        let deleted = deleted.map_err(|error| SessionError::from(error).indeterminate())?;
        if deleted {
            self.shared.on_deleted(session.id);
            self.shared.recorder.revoked.inc();
            if let Some(envelope) = &session.envelope {
                let entries = envelope.user_entries(session.id, 0);
                self.shared.unindex_users(&entries).await;
            }
        }
        Ok(deleted)
    }

    /// Creates a login token for a realm, to be sent in a link. It can be used once within `age` seconds, and makes the
    /// realm trust the browser that uses it. Returns the text for [`Session::use_login_token`].
    ///
    /// # Errors
    /// When the store fails, or the operating system provides no random numbers.
    pub async fn make_login_token(&self, realm: &str, age: u32) -> Result<String, SessionError> {
        login_token::create(self.shared.store.as_ref(), realm, age).await
    }

    /// The statistics of the last hour, day and month.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn statistics(&self) -> Result<Statistics, SessionError> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let counters = counter_names::<S>();
        if let Some(stats) = self.shared.store.stats() {
            return Ok(Statistics {
                history: stats.history(now, &counters).await?,
                shared: true,
                counters,
            });
        }
        let recorder = self.shared.stats_recorder.as_ref();
        Ok(Statistics {
            history: recorder.map_or_else(History::default, |recorder| recorder.history(now)),
            shared: false,
            counters,
        })
    }

    /// Whether the store can list its sessions.
    pub fn has_list(&self) -> bool {
        self.shared.index().is_some()
    }
}

impl<S: SessionState> Shared<S> {
    /// Deletes a record, and returns whether there was one.
    async fn delete_existing(&self, id: Id) -> session_store::Result<bool> {
        for _ in 0..MAX_ATTEMPTS {
            let record = match self.store.load(&id).await {
                // A record that can't be decoded can't be compared either.
                Err(session_store::Error::Decode(_)) => break,
                other => other?,
            };
            let Some(record) = record else {
                return Ok(false);
            };
            if self
                .store
                .compare_and_delete(&EncodedRecord::from(record))
                .await?
            {
                return Ok(true);
            }
        }
        // The client keeps writing the session, so it is deleted without a condition.
        self.store.delete(&id).await?;
        Ok(true)
    }

    /// Whether a revocation of all sessions applies to this one.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn is_revoked(&self, stored: &Envelope<S>) -> Result<bool, SessionError> {
        if self.index().is_none() {
            return Ok(false);
        }
        let revocation = Revocation::last(self.store.as_ref()).await?;
        Ok(revocation.is_some_and(|revocation| stored.is_revoked(revocation)))
    }

    /// Backfills the store's index of sessions at the start and from time to time, for as long as the server runs. The
    /// index may lack sessions that were stored while no server maintained it.
    pub async fn backfill_index(self: Arc<Self>) {
        let Some(stats) = self.store.stats() else {
            return;
        };
        let mut ticks = interval(BACKFILL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_starting = true;
        loop {
            ticks.tick().await;
            match stats.backfill(is_starting).await {
                Ok(complete) => is_starting &= !complete,
                Err(error) => {
                    tracing::warn!(%error, "the index of sessions could not be completed");
                }
            }
        }
    }

    /// Records statistics every second, for as long as the server runs.
    pub async fn record_stats(self: Arc<Self>) {
        let mut ticks = interval(RECORD_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.record_stats_now().await;
        }
    }

    /// Records the statistics since the last call.
    pub async fn record_stats_now(&self) {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let Some(stats) = &self.stats_recorder else {
            return;
        };
        let _order = self.recording.lock().await;
        let server = self.queue.server();
        let Some(batch) = stats.next_batch(&self.recorder, server, now) else {
            return;
        };
        if let Some(store) = self.store.stats()
            && let Err(error) = store.record(&batch).await
        {
            tracing::debug!(%error, "what happened could not be written down");
            stats.keep_for_retry(batch);
        }
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        self.store.index()
    }
}

impl<S: SessionState> Session<S> {
    /// Ends every session except this one, and returns how many there were. `None`: the store can't list sessions, or
    /// this session has itself ended.
    ///
    /// # Errors
    /// When the store fails. Some sessions may have ended.
    pub async fn revoke_others(&self) -> Result<Option<u64>, SessionError> {
        let Some(index) = self.shared().index() else {
            return Ok(None);
        };
        let revocation = Revocation::new()?;
        let mut revoked = 0;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.revoke_once(index, revocation, &mut revoked).await {
                Err(error) if tries < MAX_SCANS => {
                    tracing::warn!(%error, "a revocation failed and starts again");
                    sleep(SCAN_RETRY).await;
                }
                Ok(true) => return Ok(Some(revoked)),
                Ok(false) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Scans all sessions and ends them. Returns `false` if this session has ended.
    ///
    /// Each call announces the revocation and exempts this session again, because a store that was restarted may have
    /// lost both.
    async fn revoke_once(
        &self,
        index: &dyn SessionIndex,
        revocation: Revocation,
        revoked: &mut u64,
    ) -> Result<bool, SessionError> {
        let sessions = self.shared();
        revocation.announce(sessions.store.as_ref()).await?;
        let Some(own_id) = self.exempt(revocation).await? else {
            return Ok(false);
        };
        let mut scan = index.scan().await?;
        while let Some(records) = scan.next().await? {
            let envelopes = records.iter().filter_map(|record| {
                let envelope = Envelope::<S>::of(record)?;
                let is_target = record.id != own_id && !envelope.is_exempt(revocation);
                is_target.then_some((record.id, envelope))
            });
            let targets: Vec<(Id, Envelope<S>)> = envelopes.collect();
            let ended = targets
                .iter()
                .map(|(id, envelope)| sessions.end(*id, envelope));
            for ended in join_all(ended).await {
                ended?;
                sessions.recorder.revoked.inc();
                *revoked += 1;
            }
        }
        if scan.has_seen_all() {
            Ok(true)
        } else {
            Err(SessionError::Interrupted)
        }
    }

    /// Exempts this session from a revocation, and returns its id in the store. `None`: it has ended.
    async fn exempt(&self, revocation: Revocation) -> Result<Option<Id>, SessionError> {
        if self.find().await?.is_none() {
            return Ok(None);
        }
        let exempt =
            move |stored: &mut Envelope<S>| stored.exempt_from_revocation = Some(revocation.number);
        self.change(exempt, false).await?;
        Ok(self.stored_id().filter(|_| !self.was_replaced()))
    }
}

fn listed<S: SessionState>(records: &[Record]) -> Vec<Listed<S>> {
    records.iter().map(Listed::of).collect()
}
