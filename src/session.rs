//! The session handle that pages and server functions use.
//!
//! ```ignore
//! let session = Session::current()?;                       // in a server function
//! let visits = session.update(|visitor| visitor.visit()).await?;
//! let visitor = session.read().await?;
//! session.rotate().await?;                                 // at sign-in: new id, same data
//! session.flush().await?;                                  // at sign-out: record and cookie gone
//! ```
//!
//! A change is a *function*, not a value: `update` loads the newest record, runs the function, and
//! saves only if the stored record is still the one that it loaded; else it does so again. So two
//! requests never overwrite each other, on one server or on many. Hence the function must depend
//! on the visitor alone: it may run more than once.
//!
//! Behind the handle: [`layer`] gives each request its handle and writes the answer's headers,
//! [`cookie`] takes every decision about the cookie, [`id`] makes and hides ids, [`record`] says
//! what is stored, [`queue`] lets requests of one session wait for each other, [`store`] holds the
//! engines, and [`settings`] says what can be set.
//!
//! tower-sessions' own manager layer is not used: it writes back whole records (the last writer
//! wins), sends no `Vary`, and stores a record for each unknown id under `always_save`. Records,
//! ids and stores are tower-sessions' own.

pub mod cookie;
pub mod id;
pub mod layer;
pub mod queue;
pub mod record;
pub mod settings;
pub mod store;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use leptos::prelude::use_context;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::time::Instant;
use tower_sessions::session::Record;
use tower_sessions::session_store;

use crate::visitor::Visitor;
use cookie::Cookie;
use id::SessionId;
use queue::Queue;
use record::Stored;
use settings::SessionSettings;
use store::Store;

/// How long a change is tried against other writers before it is given up, unsaved.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a session could not be read or changed. What could not be saved was not counted.
#[derive(Debug, Error)]
pub enum SessionError {
    #[error("the session store failed: {0}")]
    Store(#[from] session_store::Error),
    #[error("the session could not be saved: other writers were faster for {PATIENCE:?}")]
    Contended,
    #[error("the session store stopped answering while a change was saved")]
    Undecided,
    #[error("the record can't be encoded: {0}")]
    Encode(#[from] serde_json::Error),
    #[error("no random numbers from the operating system: {0}")]
    Random(getrandom::Error),
    #[error("no session layer around this request")]
    NoLayer,
}

impl From<getrandom::Error> for SessionError {
    fn from(error: getrandom::Error) -> Self {
        Self::Random(error)
    }
}

/// What all requests share: the engine, the settings, and the queues of busy sessions.
#[derive(Debug)]
pub struct Sessions {
    pub settings: SessionSettings,
    store: Arc<dyn Store>,
    queue: Queue,
}

impl Sessions {
    /// Sessions kept in `store`.
    pub fn new(settings: SessionSettings, store: Arc<dyn Store>) -> Self {
        Self {
            settings,
            store,
            queue: Queue::default(),
        }
    }
}

/// One request's session. Clones share the same state.
#[derive(Clone, Debug)]
pub struct Session {
    sessions: Arc<Sessions>,
    request: Arc<Mutex<RequestState>>,
}

/// What one request has found out and decided so far.
#[derive(Debug)]
struct RequestState {
    /// The request's well-formed ids, until one of them is found in the store.
    candidates: Vec<SessionId>,
    /// The visitor sent a cookie of the name, well-formed or not.
    sent_cookie: bool,
    /// Something asked for the session: the answer depends on the cookie.
    touched: bool,
    cookie: Cookie,
}

/// A session that is in the store.
struct Found {
    id: SessionId,
    record: Record,
    stored: Stored,
}

impl Session {
    pub(crate) fn new(sessions: Arc<Sessions>, request: cookie::Sent) -> Self {
        Self {
            sessions,
            request: Arc::new(Mutex::new(RequestState {
                candidates: request.ids,
                sent_cookie: request.any,
                touched: false,
                cookie: Cookie::Keep,
            })),
        }
    }

    /// The session of the request that is being answered, in a server function.
    ///
    /// # Errors
    /// [`SessionError::NoLayer`] outside of a request.
    pub fn current() -> Result<Self, SessionError> {
        use_context::<axum::http::request::Parts>()
            .and_then(|parts| parts.extensions.get::<Self>().cloned())
            .ok_or(SessionError::NoLayer)
    }

    /// The visitor as stored; the default where there is no session. Stores nothing.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn read(&self) -> Result<Visitor, SessionError> {
        let found = self.find().await?;
        Ok(found.map(|found| found.stored.visitor).unwrap_or_default())
    }

    /// Changes the visitor and returns what `change` returned. A change that changes nothing is
    /// not stored, and makes no session.
    ///
    /// # Errors
    /// When the change could not be saved; then it was not saved, or ([`SessionError::Undecided`])
    /// nobody can know.
    pub async fn update<T>(&self, change: impl Fn(&mut Visitor) -> T) -> Result<T, SessionError> {
        let give_up = Instant::now() + PATIENCE;
        let _turn = self.turn().await;
        loop {
            let attempt = match self.find().await? {
                Some(found) => self.change_found(found, &change).await?,
                None => Some(self.change_new(&change).await?),
            };
            if let Some(output) = attempt {
                return Ok(output);
            }
            if Instant::now() >= give_up {
                return Err(SessionError::Contended);
            }
            tokio::time::sleep(record::jitter()?).await;
        }
    }

    /// Gives the session a new id with the same data; the old id is dead. For sign-in, and
    /// whenever a visitor's rights change. Nothing happens where there is no session.
    ///
    /// # Errors
    /// When the store can't be asked; the old id still works then.
    pub async fn rotate(&self) -> Result<(), SessionError> {
        let _turn = self.turn().await;
        let Some(found) = self.find().await? else {
            return Ok(());
        };
        let id = SessionId::generate()?;
        let mut record = Record {
            id: id.hashed(),
            ..found.record
        };
        self.sessions.store.create(&mut record).await?;
        self.sessions.store.delete(&found.id.hashed()).await?;
        self.adopt(id);
        Ok(())
    }

    /// Deletes the record at once and removes the cookie.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn flush(&self) -> Result<(), SessionError> {
        let _turn = self.turn().await;
        let found = self.find().await?;
        if let Some(found) = found {
            self.sessions.store.delete(&found.id.hashed()).await?;
        }
        let mut request = self.request();
        request.candidates.clear();
        request.cookie = if request.sent_cookie {
            Cookie::Remove
        } else {
            Cookie::Keep
        };
        Ok(())
    }

    /// Whether anything asked for the session, and what becomes of the cookie.
    pub(crate) fn outcome(&self) -> (bool, Cookie) {
        let request = self.request();
        (request.touched, request.cookie.clone())
    }

    /// One session's requests take turns, so that only other servers can come in between.
    async fn turn(&self) -> Option<queue::Turn<'_>> {
        let id = self.request().candidates.first().map(SessionId::hashed)?;
        Some(self.sessions.queue.turn(id).await)
    }

    /// The first of the request's ids that the store knows: a foreign cookie of the same name
    /// can't hide the visitor's own.
    async fn find(&self) -> Result<Option<Found>, SessionError> {
        let candidates = {
            let mut request = self.request();
            request.touched = true;
            request.candidates.clone()
        };
        for id in candidates {
            let Some(record) = self.sessions.store.load(&id.hashed()).await? else {
                continue;
            };
            match Stored::of(&record) {
                Some(stored) => {
                    self.request().candidates = vec![id.clone()];
                    return Ok(Some(Found { id, record, stored }));
                }
                None => tracing::warn!("a session record can't be decoded; a new one begins"),
            }
        }
        let mut request = self.request();
        request.candidates.clear();
        if request.sent_cookie {
            request.cookie = Cookie::Remove;
        }
        Ok(None)
    }

    /// `None`: another writer was faster.
    async fn change_found<T>(
        &self,
        found: Found,
        change: &impl Fn(&mut Visitor) -> T,
    ) -> Result<Option<T>, SessionError> {
        let mut visitor = found.stored.visitor.clone();
        let output = change(&mut visitor);
        if visitor == found.stored.visitor {
            return Ok(Some(output));
        }
        let stored = Stored::new(visitor)?;
        let new = stored.record(found.id.hashed(), self.expires(true))?;
        let saved = match self
            .sessions
            .store
            .compare_and_save(&found.record, &new)
            .await
        {
            Ok(saved) => saved,
            Err(error) => self.took(&found.id, &stored, error).await?,
        };
        if saved {
            self.adopt(found.id);
        }
        Ok(saved.then_some(output))
    }

    /// The connection broke while a save was under way: the record's own token tells whether it
    /// took. A record that is still the old one may yet be overtaken by the save, so only "took"
    /// is certain.
    async fn took(
        &self,
        id: &SessionId,
        stored: &Stored,
        error: session_store::Error,
    ) -> Result<bool, SessionError> {
        tracing::warn!(%error, "a save broke off; asking whether it took");
        let now = self.sessions.store.load(&id.hashed()).await?;
        match now.as_ref().and_then(Stored::of) {
            Some(now) if now.token == stored.token => Ok(true),
            _ => Err(SessionError::Undecided),
        }
    }

    async fn change_new<T>(&self, change: &impl Fn(&mut Visitor) -> T) -> Result<T, SessionError> {
        let mut visitor = Visitor::default();
        let output = change(&mut visitor);
        if visitor == Visitor::default() {
            return Ok(output);
        }
        let id = SessionId::generate()?;
        let mut record = Stored::new(visitor)?.record(id.hashed(), self.expires(false))?;
        self.sessions.store.create(&mut record).await?;
        self.adopt(id);
        Ok(output)
    }

    fn adopt(&self, id: SessionId) {
        let mut request = self.request();
        request.candidates = vec![id.clone()];
        request.cookie = Cookie::Set(id);
    }

    /// A session lives long only once its cookie has come back.
    fn expires(&self, confirmed: bool) -> OffsetDateTime {
        let settings = &self.sessions.settings;
        let age = if confirmed {
            settings.cookie_age
        } else {
            settings.cookie_age.min(settings.unconfirmed_age)
        };
        record::expires_in(age)
    }

    fn request(&self) -> MutexGuard<'_, RequestState> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
