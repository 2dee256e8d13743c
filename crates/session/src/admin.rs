//! What an operator may do with all sessions: count them, list them, look into one, and end them.

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

/// How often what happened is written down.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked after whether the list has to be completed.
const COMPLETE_INTERVAL: Duration = Duration::from_secs(300);

/// How many times a deletion is tried against a client that writes.
const MOST_TRIES: usize = 8;

/// How many times a revocation of all sessions begins again where the store failed.
const MOST_SCANS: usize = 10;

/// How long it waits before it begins again.
const SCAN_AGAIN: Duration = Duration::from_secs(2);

/// A session, as an operator sees it.
#[derive(Clone, Debug)]
pub struct Listed<S> {
    id: Id,
    /// What people may be shown: the beginning of the session's name in the store.
    pub short_id: String,
    /// When it ends if nothing writes it, in seconds since 1970.
    pub expires_at: i64,
    /// What it holds; `None`: it can't be read.
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

/// What happened lately, and where that was written down.
#[derive(Clone, Debug)]
pub struct Statistics {
    pub history: History,
    /// On all servers, and it survives a restart; else on this one alone, since its start.
    pub shared: bool,
    /// The names of the application's own counters, in the order of [`Counts::counters`](crate::store::Counts).
    pub counters: Vec<&'static str>,
}

impl<S: SessionState> SessionManager<S> {
    /// How many sessions are alive; `None`: the engine can't tell.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn count(&self) -> Result<Option<u64>, SessionError> {
        match self.shared.index() {
            Some(index) => Ok(Some(index.count().await?)),
            None => Ok(None),
        }
    }

    /// How many sign-ins of users there are; `None`: the engine can't tell.
    ///
    /// # Errors
    /// When the store can't be asked.
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

    /// A page of the sessions, those that live the longest first; `None`: the engine has no list.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn page(&self, skip: u64, take: u32) -> Result<Option<Vec<Listed<S>>>, SessionError> {
        match self.shared.index() {
            Some(index) => Ok(Some(listed(&index.page(skip, take).await?))),
            None => Ok(None),
        }
    }

    /// Sessions whose short id begins like this; `None`: the engine has no list.
    ///
    /// # Errors
    /// When the store can't be asked.
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

    /// The session of a whole short id.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn with_short_id(&self, short_id: &str) -> Result<Option<Listed<S>>, SessionError> {
        if short_id.len() != SHORT_ID_LENGTH {
            return Ok(None);
        }
        let found = self.search(short_id, 1).await?;
        Ok(found.and_then(|found| found.into_iter().next()))
    }

    /// The sessions that are signed in as this user, in whichever realm; `None`: the engine can't find them.
    ///
    /// # Errors
    /// When the store can't be asked.
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
                // One that can't be read hides no other.
                Err(session_store::Error::Decode(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut found = listed(&records);
        found.retain(|session: &Listed<S>| session.is_signed_in_as(user));
        Ok(Some(found))
    }

    /// Ends a session: its next request begins a new one, and its open pages are told. `false`: it has
    /// ended already, or goes on under another id.
    ///
    /// # Errors
    /// When the store can't be asked; [`SessionError::Indeterminate`]: it may have ended.
    pub async fn revoke(&self, session: &Listed<S>) -> Result<bool, SessionError> {
        let deleted = self.shared.delete_if_there(session.id).await;
        let deleted = deleted.map_err(|error| SessionError::from(error).indeterminate())?;
        if deleted {
            self.shared.deleted(session.id);
            self.shared.recorder.revoked.inc();
            if let Some(envelope) = &session.envelope {
                let entries = envelope.user_entries(session.id, 0);
                self.shared.unindex_users(&entries).await;
            }
        }
        Ok(deleted)
    }

    /// Makes a pass to a realm, for a link that may be used once within so many seconds: whoever opens
    /// it is no stranger there. Returns the text that [`Session::use_login_token`] takes.
    ///
    /// # Errors
    /// When the store can't be asked, or the system gives no random numbers.
    pub async fn make_login_token(&self, realm: &str, age: u32) -> Result<String, SessionError> {
        login_token::make(self.shared.store.as_ref(), realm, age).await
    }

    /// What happened lately.
    ///
    /// # Errors
    /// When the store can't be asked.
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

    /// Whether the engine has a list of its sessions.
    pub fn has_list(&self) -> bool {
        self.shared.index().is_some()
    }
}

impl<S: SessionState> Shared<S> {
    /// Deletes a record, and says whether there was one.
    async fn delete_if_there(&self, id: Id) -> session_store::Result<bool> {
        for _ in 0..MOST_TRIES {
            let record = match self.store.load(&id).await {
                // One that can't be read can't be compared.
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
        // Its client writes all the time, which saves no session.
        self.store.delete(&id).await?;
        Ok(true)
    }

    /// Whether all sessions were revoked while this one changed its id.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub(super) async fn is_revoked(&self, stored: &Envelope<S>) -> Result<bool, SessionError> {
        if self.index().is_none() {
            return Ok(false);
        }
        let revocation = Revocation::last(self.store.as_ref()).await?;
        Ok(revocation.is_some_and(|revocation| stored.is_revoked(revocation)))
    }

    /// Adds to the engine's list what was stored while no server kept one, now and whenever that
    /// was long ago, for as long as the server runs.
    pub async fn backfill_index(self: Arc<Self>) {
        let Some(stats) = self.store.stats() else {
            return;
        };
        let mut turns = interval(COMPLETE_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut starts = true;
        loop {
            turns.tick().await;
            match stats.backfill(starts).await {
                Ok(complete) => starts &= !complete,
                Err(error) => {
                    tracing::warn!(%error, "the list of sessions could not be completed");
                }
            }
        }
    }

    /// Writes down what happens, second by second, for as long as the server runs.
    pub async fn record_stats(self: Arc<Self>) {
        let mut turns = interval(NOTE_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            self.record_stats_now().await;
        }
    }

    /// Writes down what happened since the last time.
    pub async fn record_stats_now(&self) {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let Some(stats) = &self.stats_recorder else {
            return;
        };
        let _turn = self.recording.lock().await;
        let server = self.queue.server();
        let Some(batch) = stats.next_batch(&self.recorder, server, now) else {
            return;
        };
        if let Some(store) = self.store.stats()
            && let Err(error) = store.record(&batch).await
        {
            tracing::debug!(%error, "what happened could not be written down");
            stats.keep(batch);
        }
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        self.store.index()
    }
}

impl<S: SessionState> Session<S> {
    /// Ends every session but this one, and says how many; `None`: the engine has no list, or this
    /// session has ended itself.
    ///
    /// # Errors
    /// When the store can't be asked; some have ended then.
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
                Err(error) if tries < MOST_SCANS => {
                    tracing::warn!(%error, "a revocation broke off, and begins again");
                    sleep(SCAN_AGAIN).await;
                }
                Ok(true) => return Ok(Some(revoked)),
                Ok(false) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Goes through all sessions; `false`: this one has ended. What is written before that is written
    /// each time, for a store that was restarted may have lost it.
    async fn revoke_once(
        &self,
        index: &dyn SessionIndex,
        revocation: Revocation,
        revoked: &mut u64,
    ) -> Result<bool, SessionError> {
        let sessions = self.shared();
        revocation.announce(sessions.store.as_ref()).await?;
        let Some(mine) = self.exempt(revocation).await? else {
            return Ok(false);
        };
        let mut scan = index.scan().await?;
        while let Some(records) = scan.next().await? {
            let envelopes = records.iter().filter_map(|record| {
                let envelope = Envelope::<S>::of(record)?;
                let is_meant = record.id != mine && !envelope.is_exempt(revocation);
                is_meant.then_some((record.id, envelope))
            });
            let meant: Vec<(Id, Envelope<S>)> = envelopes.collect();
            let ended = meant
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

    /// Exempts this session from a revocation, and returns its name; `None`: it has ended.
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
