//! What an operator may do with all sessions: count them, list them, look into one, and end them.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tower_sessions::session::{Id, Record};

use super::{
    SessionError, Sessions, account,
    id::{LABEL_LENGTH, is_label, label},
    record::Stored,
    store::census::{Census, Lately},
};

/// How often what happened is written down.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked after whether the list has to be completed.
const COMPLETE_INTERVAL: Duration = Duration::from_secs(300);

/// A session, as an operator sees it.
#[derive(Clone, Debug)]
pub struct Listed {
    id: Id,
    /// What people may be shown: see [`label`].
    pub label: String,
    /// When it ends if nobody writes it, in seconds since 1970.
    pub ends: i64,
    /// What it holds; `None`: it can't be read.
    pub stored: Option<Stored>,
}

impl Listed {
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

impl Sessions {
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
    pub async fn page(&self, skip: u64, take: u32) -> Result<Option<Vec<Listed>>, SessionError> {
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
    ) -> Result<Option<Vec<Listed>>, SessionError> {
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
    pub async fn with_label(&self, label: &str) -> Result<Option<Listed>, SessionError> {
        if label.len() != LABEL_LENGTH {
            return Ok(None);
        }
        let found = self.labelled(label, 1).await?;
        Ok(found.and_then(|found| found.into_iter().next()))
    }

    /// Ends a session: its next request begins a new one, and its open pages are told.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn revoke(&self, session: &Listed) -> Result<(), SessionError> {
        self.delete(session.id).await?;
        self.metrics.revoked.inc();
        Ok(())
    }

    /// Ends every session but one, and says how many; `None`: the engine has no list.
    ///
    /// # Errors
    /// When the store can't be asked; some have ended then.
    pub async fn revoke_all_but(&self, mine: Id) -> Result<Option<u64>, SessionError> {
        let Some(census) = self.census() else {
            return Ok(None);
        };
        let mut revoked = 0;
        let mut deleted = |id: Id| {
            self.has_gone(id);
            self.metrics.revoked.inc();
            revoked += 1;
        };
        census
            .delete_all_but(&[mine, account::ID], &mut deleted)
            .await?;
        Ok(Some(revoked))
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
        let mut turns = interval(COMPLETE_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            if let Some(ledger) = self.store.ledger()
                && let Err(error) = ledger.complete().await
            {
                tracing::warn!(%error, "the list of sessions could not be completed");
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
        let Some(page) = register.next_page(&self.metrics, now) else {
            return;
        };
        if let Some(ledger) = self.store.ledger()
            && let Err(error) = ledger.note(&page).await
        {
            tracing::debug!(%error, "what happened could not be written down");
            register.not_told(&page);
        }
    }

    fn census(&self) -> Option<&dyn Census> {
        self.store.census()
    }
}

/// The records that are sessions; the account's own is none.
fn listed(records: &[Record]) -> Vec<Listed> {
    let sessions = records.iter().filter(|record| record.id != account::ID);
    sessions.map(Listed::of).collect()
}
