//! What an operator may do with all sessions: count them, list them, look into one, and end them.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tower_sessions::{
    session::{Id, Record},
    session_store,
};

use super::{
    Session, SessionError, Sessions,
    account::{self, Revocation},
    id::{LABEL_LENGTH, is_label, label},
    pass,
    record::Stored,
    state::SessionState,
    store::{
        Kept,
        census::{Census, Lately},
    },
};

/// How often what happened is written down.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked after whether the list has to be completed.
const COMPLETE_INTERVAL: Duration = Duration::from_secs(300);

/// So often a deletion is tried against a visitor who writes.
const MOST_TRIES: usize = 8;

/// So often all sessions are gone through from the beginning where the store failed meanwhile,
const MOST_WALKS: usize = 10;

/// and after so long each time.
const WALK_AGAIN: Duration = Duration::from_secs(2);

/// A session, as an operator sees it.
#[derive(Clone, Debug)]
pub struct Listed<S> {
    id: Id,
    /// What people may be shown: see [`label`].
    pub label: String,
    /// When it ends if nobody writes it, in seconds since 1970.
    pub ends: i64,
    /// What it holds; `None`: it can't be read.
    pub stored: Option<Stored<S>>,
}

impl<S: SessionState> Listed<S> {
    fn of(record: &Record) -> Self {
        Self {
            id: record.id,
            label: label(&record.id),
            ends: record.expiry_date.unix_timestamp(),
            stored: Stored::of(record),
        }
    }
}

/// What happened lately, and where that was written down.
#[derive(Clone, Debug)]
pub struct History {
    pub lately: Lately,
    /// On all servers, and it survives a restart; else on this one alone, since its start.
    pub shared: bool,
}

impl<S: SessionState> Sessions<S> {
    /// How many sessions are alive; `None`: the engine can't tell.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn alive(&self) -> Result<Option<u64>, SessionError> {
        match self.census() {
            Some(census) => Ok(Some(census.alive().await?)),
            None => Ok(None),
        }
    }

    /// A page of the sessions, those that live the longest first; `None`: the engine has no list.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn page(&self, skip: u64, take: u32) -> Result<Option<Vec<Listed<S>>>, SessionError> {
        match self.census() {
            Some(census) => Ok(Some(listed(&census.page(skip, take).await?))),
            None => Ok(None),
        }
    }

    /// Sessions whose label begins like this; `None`: the engine has no list.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn labelled(
        &self,
        beginning: &str,
        take: u32,
    ) -> Result<Option<Vec<Listed<S>>>, SessionError> {
        let Some(census) = self.census() else {
            return Ok(None);
        };
        if !is_label(beginning) {
            return Ok(Some(Vec::new()));
        }
        Ok(Some(listed(&census.labelled(beginning, take).await?)))
    }

    /// The session of a whole label.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn with_label(&self, label: &str) -> Result<Option<Listed<S>>, SessionError> {
        if label.len() != LABEL_LENGTH {
            return Ok(None);
        }
        let found = self.labelled(label, 1).await?;
        Ok(found.and_then(|found| found.into_iter().next()))
    }

    /// Ends a session: its next request begins a new one, and its open pages are told. `false`: it has
    /// ended already, or goes on under another id.
    ///
    /// # Errors
    /// When the store can't be asked; [`SessionError::Undecided`]: it may have ended.
    pub async fn revoke(&self, session: &Listed<S>) -> Result<bool, SessionError> {
        let deleted = self.delete_if_there(session.id).await;
        let deleted = deleted.map_err(|error| SessionError::from(error).undecided())?;
        if deleted {
            self.has_gone(session.id);
            self.metrics.revoked.inc();
        }
        Ok(deleted)
    }

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
            if self.store.compare_and_delete(&Kept::from(record)).await? {
                return Ok(true);
            }
        }
        // Its visitor writes all the time: that saves nobody.
        self.store.delete(&id).await?;
        Ok(true)
    }

    /// Whether all sessions were revoked while this one changed its id.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub(super) async fn is_revoked(&self, stored: &Stored<S>) -> Result<bool, SessionError> {
        if !self.has_list() {
            return Ok(false);
        }
        let revocation = account::revocation(self.store.as_ref()).await?;
        Ok(revocation.is_some_and(|revocation| stored.is_revoked(revocation)))
    }

    /// Makes a pass to a realm, for a link that may be used once within so many seconds: whoever opens
    /// it is no stranger there. Returns the text that [`Session::use_pass`] takes.
    ///
    /// # Errors
    /// When the store can't be asked, or the system gives no random numbers.
    pub async fn make_pass(&self, realm: &str, age: u32) -> Result<String, SessionError> {
        pass::make(self.store.as_ref(), realm, age).await
    }

    /// What happened lately.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn history(&self) -> Result<History, SessionError> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        if let Some(ledger) = self.store.ledger() {
            return Ok(History {
                lately: ledger.lately(now).await?,
                shared: true,
            });
        }
        let register = self.register.as_ref();
        Ok(History {
            lately: register.map_or_else(Lately::default, |register| register.lately(now)),
            shared: false,
        })
    }

    /// The operator's account's generation, where anybody has signed in yet.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn generation(&self) -> Result<Option<u64>, SessionError> {
        account::generation(self.store.as_ref()).await
    }

    /// The same, made where there is none.
    ///
    /// # Errors
    /// When the store can't be asked, or the system gives no random numbers.
    pub async fn generation_or_new(&self) -> Result<u64, SessionError> {
        account::generation_or_new(self.store.as_ref()).await
    }

    /// Ends every sign-in to the operator's account, on all servers.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn end_sign_ins(&self) -> Result<(), SessionError> {
        account::end(self.store.as_ref()).await
    }

    /// Whether the engine has a list of its sessions.
    pub fn has_list(&self) -> bool {
        self.census().is_some()
    }

    /// Adds to the engine's list what was stored while no server kept one, now and whenever that
    /// was long ago, for as long as the server runs.
    pub async fn complete_list(self: Arc<Self>) {
        let Some(ledger) = self.store.ledger() else {
            return;
        };
        let mut turns = interval(COMPLETE_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut starts = true;
        loop {
            turns.tick().await;
            match ledger.complete(starts).await {
                Ok(complete) => starts &= !complete,
                Err(error) => {
                    tracing::warn!(%error, "the list of sessions could not be completed");
                }
            }
        }
    }

    /// Writes down what happens, second by second, for as long as the server runs.
    pub async fn keep_register(self: Arc<Self>) {
        let mut turns = interval(NOTE_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            self.note_now().await;
        }
    }

    /// Writes down what happened since the last time.
    pub async fn note_now(&self) {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let Some(register) = &self.register else {
            return;
        };
        let _turn = self.noting.lock().await;
        let server = self.queue.server();
        let Some(page) = register.next_page(&self.metrics, server, now) else {
            return;
        };
        if let Some(ledger) = self.store.ledger()
            && let Err(error) = ledger.note(&page).await
        {
            tracing::debug!(%error, "what happened could not be written down");
            register.keep(page);
        }
    }

    fn census(&self) -> Option<&dyn Census> {
        self.store.census()
    }
}

impl<S: SessionState> Session<S> {
    /// Ends every session but this one, and says how many; `None`: the engine has no list, or this
    /// session has ended itself.
    ///
    /// # Errors
    /// When the store can't be asked; some have ended then.
    pub async fn revoke_others(&self) -> Result<Option<u64>, SessionError> {
        let Some(census) = self.sessions.census() else {
            return Ok(None);
        };
        let revocation = Revocation::new()?;
        let mut revoked = 0;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.revoke_once(census, revocation, &mut revoked).await {
                Err(error) if tries < MOST_WALKS => {
                    tracing::warn!(%error, "a revocation broke off, and begins again");
                    sleep(WALK_AGAIN).await;
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
        census: &dyn Census,
        revocation: Revocation,
        revoked: &mut u64,
    ) -> Result<bool, SessionError> {
        let sessions = &self.sessions;
        account::revoke(sessions.store.as_ref(), revocation).await?;
        let Some(mine) = self.spare(revocation).await? else {
            return Ok(false);
        };
        let doomed = |record: &Record| {
            let stored = Stored::<S>::of(record);
            record.id != mine && stored.is_some_and(|stored| !stored.is_spared(revocation))
        };
        let mut deleted = |id: Id| {
            sessions.has_gone(id);
            sessions.metrics.revoked.inc();
            *revoked += 1;
        };
        if census.delete_all(&doomed, &mut deleted).await? {
            Ok(true)
        } else {
            Err(SessionError::Interrupted)
        }
    }

    /// Has a revocation spare this session, and returns its name; `None`: it has ended.
    async fn spare(&self, revocation: Revocation) -> Result<Option<Id>, SessionError> {
        if self.find().await?.is_none() {
            return Ok(None);
        }
        let spare = move |stored: &mut Stored<S>| stored.spared_by = Some(revocation.number);
        self.change(spare, false).await?;
        Ok(self.stored_id().filter(|_| !self.has_ended()))
    }
}

/// The records that are sessions; the account's own is none, nor is a pass.
fn listed<S: SessionState>(records: &[Record]) -> Vec<Listed<S>> {
    let is_session = |record: &&Record| record.id != account::ID && !pass::is_pass(record);
    let sessions = records.iter().filter(is_session);
    sessions.map(Listed::of).collect()
}
