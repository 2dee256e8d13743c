//! What an application opens once: its sessions' store, configuration and background tasks.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    Config, SessionError, SessionLayer, SessionState, Sessions,
    store::{self, Store, StoreError, StoreOptions, url::StoreUrl},
};

/// How often expired sessions are removed.
const CLEAR_INTERVAL: Duration = Duration::from_secs(60);

/// Why sessions can't be opened, in one line without the store's password.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The URL names no engine.
    #[error("not a store's URL; allowed: {0}")]
    Url(&'static str),
    /// The engine does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gives no random numbers.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// The sessions of an application. Clones share everything.
///
/// ```no_run
/// # use serde::{Deserialize, Serialize};
/// # use tally_session::{SessionManager, SessionState};
/// # #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
/// # struct Cart { items: Vec<String> }
/// # impl SessionState for Cart {}
/// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = SessionManager::<Cart>::connect("redis://127.0.0.1:6379").await?;
/// let layer = sessions.layer();
/// # Ok(())
/// # }
/// ```
pub struct SessionManager<S: SessionState> {
    sessions: Arc<Sessions<S>>,
    /// End with the last clone.
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl<S: SessionState> Clone for SessionManager<S> {
    fn clone(&self) -> Self {
        Self {
            sessions: Arc::clone(&self.sessions),
            tasks: Arc::clone(&self.tasks),
        }
    }
}

impl<S: SessionState> fmt::Debug for SessionManager<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SessionManager(…)")
    }
}

impl<S: SessionState> SessionManager<S> {
    /// Opens the store that a URL names, with the default configuration, and starts the background tasks.
    ///
    /// # Errors
    /// When the URL names no engine, or the engine does not answer.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        let url = StoreUrl::parse(url).map_err(ConnectError::Url)?;
        let store = store::open(&StoreOptions::new(url)).await?;
        let manager = Self::new(store, Config::default())?;
        manager.start();
        Ok(manager)
    }

    /// Sessions in this store. [`SessionManager::start`] starts their background tasks.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn new(store: Arc<dyn Store>, config: Config) -> Result<Self, SessionError> {
        Ok(Self {
            sessions: Arc::new(Sessions::new(config, store)?),
            tasks: Arc::default(),
        })
    }

    /// Starts the tasks that remove expired sessions from engines which don't do so by themselves, and that tell
    /// open pages of what other servers change. They end with the last clone of this manager and of its layers.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.is_empty() {
            tasks.spawn(Arc::clone(self.sessions.live()).hear());
            tasks.spawn(clear_now_and_then(Arc::clone(&self.sessions)));
        }
    }

    /// The layer that gives each request its session.
    pub fn layer(&self) -> SessionLayer<S> {
        SessionLayer::new(self.clone())
    }

    /// What all requests share.
    pub fn sessions(&self) -> &Arc<Sessions<S>> {
        &self.sessions
    }
}

async fn clear_now_and_then<S: SessionState>(sessions: Arc<Sessions<S>>) {
    let mut turns = interval(CLEAR_INTERVAL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        sessions.forget_rested();
        if let Err(error) = sessions.clear_expired(|_| ()).await {
            tracing::warn!(%error, "expired sessions could not be removed");
        }
    }
}
