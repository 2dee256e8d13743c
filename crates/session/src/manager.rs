//! What an application opens once: its sessions' store, configuration and background tasks.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use thiserror::Error;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tower_sessions::{SessionStore, session::Id};

use super::{
    Config, ConfigError, SessionError, SessionLayer, SessionState, auth,
    envelope::Envelope,
    limit::CreationLimiter,
    live::Live,
    metrics::{Metrics, Recorder},
    queue::Queue,
    state::counter_names,
    stats::StatsRecorder,
    store::{
        self, Store, StoreError, StoreOptions, UserEntry, index::Counts,
        instrumented::InstrumentedStore, refusal::Refusal, url::StoreUrl,
    },
};

/// How often expired sessions are removed.
const CLEAR_INTERVAL: Duration = Duration::from_secs(60);

/// How long a readiness check holds.
const CHECKED_FOR: Duration = Duration::from_secs(1);

/// How long the store may take to show that it is ready. Balancers ask again after a few seconds.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// An id that no session has, because nobody knows an id with this hash.
const PING: Id = Id(0);

/// Why sessions can't be opened, in one line without the store's password.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL names no engine.
    #[error("not a store's URL; allowed: {0}")]
    Url(&'static str),
    /// The engine does not respond.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The config asks for what browsers don't obey.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    pub(crate) shared: Arc<Shared<S>>,
    /// End with the last clone.
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl<S: SessionState> Clone for SessionManager<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
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
    /// Opens the store that a URL names, with the default config, and starts the background tasks.
    ///
    /// # Errors
    /// When the URL names no engine, or one whose feature is off, or the engine does not respond.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        let url = StoreUrl::parse(url).map_err(ConnectError::Url)?;
        let store = store::open(&StoreOptions::new(url)).await?;
        let manager = Self::new(store, Config::default())?;
        manager.start();
        Ok(manager)
    }

    /// Sessions in this store. [`SessionManager::start`] starts their background tasks.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use tally_session::{Config, ConnectError, Map, SessionManager, store::{self, StoreOptions}};
    /// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = StoreOptions::new("memory:".parse()?);
    /// let config = Config::default().with_cookie_name("id");
    /// let sessions = SessionManager::<Map>::new(store::open(&options).await?, config)?;
    /// sessions.start();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When [`Config::check`] finds something, a name in [`SessionState::COUNTERS`] is taken, or the operating system
    /// gives no random numbers.
    pub fn new(store: Arc<dyn Store>, config: Config) -> Result<Self, ConnectError> {
        config.check()?;
        check_counters(&counter_names::<S>())?;
        Ok(Self {
            shared: Arc::new(Shared::new(config, store)?),
            tasks: Arc::default(),
        })
    }

    /// Starts the background tasks. They remove expired sessions from engines that don't do so by themselves, tell
    /// subscribers what other servers change, keep the index of users right, and record statistics where the config
    /// says so. They end with the last clone of this manager and of its layers.
    ///
    /// A second call does nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if !tasks.is_empty() {
            return;
        }
        let shared = || Arc::clone(&self.shared);
        tasks.spawn(Arc::clone(&self.shared.live).apply_remote());
        tasks.spawn(clear_now_and_then(shared()));
        tasks.spawn(auth::check_entries(shared()));
        if self.shared.stats_recorder.is_some() {
            tasks.spawn(shared().record_stats());
            tasks.spawn(shared().backfill_index());
        }
    }

    /// The layer that gives each request its session.
    pub fn layer(&self) -> SessionLayer<S> {
        SessionLayer::new(self.clone())
    }

    /// How sessions behave.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// What this process has counted.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            subscribers: self.shared.live.subscribers() as u64,
            store_log_bytes: self.shared.store.log_bytes(),
            ..self.shared.recorder.snapshot()
        }
    }

    /// Whether sessions can be read and written. The store is asked at most once a second, however often this is
    /// called.
    ///
    /// # Errors
    /// Why they can't be.
    pub async fn check_ready(&self) -> Result<(), Refusal> {
        self.shared.check_ready().await
    }

    /// Removes expired records for as long as there are any, in batches, and returns how many they were. Engines
    /// that do so by themselves have none. `progress` is given the count after each batch.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn clear_expired(&self, progress: impl FnMut(u64)) -> Result<u64, SessionError> {
        self.shared.clear_expired(progress).await
    }

    /// Ends every subscription and lets no more begin: the server is about to stop.
    pub fn close_subscriptions(&self) {
        self.shared.live.close();
    }

    /// Leaves the store tidy, and records the last statistics where the background tasks were started. For the end
    /// of the process.
    pub async fn close(&self) {
        if self.is_started() {
            // One batch may have been kept from before. Then comes what happened since.
            self.shared.record_stats_now().await;
            self.shared.record_stats_now().await;
        }
        self.shared.store.close().await;
    }

    fn is_started(&self) -> bool {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        !tasks.is_empty()
    }
}

async fn clear_now_and_then<S: SessionState>(shared: Arc<Shared<S>>) {
    let mut turns = interval(CLEAR_INTERVAL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        shared.limiter.evict_idle();
        // The store logs its outages itself.
        if let Err(error) = shared.clear_expired(|_| ()).await {
            tracing::debug!(%error, "expired sessions could not be removed");
        }
    }
}

/// What all requests share: the store, the config, and the queues of busy sessions.
#[derive(Debug)]
pub(crate) struct Shared<S> {
    pub config: Config,
    pub store: Arc<InstrumentedStore>,
    pub limiter: CreationLimiter,
    pub recorder: Arc<Recorder>,
    pub queue: Arc<Queue<S>>,
    pub live: Arc<Live<S>>,
    /// What happens, for the operator's console.
    pub stats_recorder: Option<StatsRecorder>,
    /// A session with a sign-in was seen: an index of users is worth its price.
    has_sign_ins: AtomicBool,
    /// Held while statistics are written, so that they are written in order.
    pub recording: tokio::sync::Mutex<()>,
    requests: AtomicU64,
    /// What was last found out about the store, and when.
    checked: tokio::sync::Mutex<Option<(Instant, Result<(), Refusal>)>>,
}

impl<S> Shared<S> {
    /// Remembers that there are sign-ins.
    pub fn saw_sign_in(&self) {
        if !self.has_sign_ins.load(Ordering::Relaxed) {
            self.has_sign_ins.store(true, Ordering::Relaxed);
        }
    }

    /// Whether this server has seen a sign-in since its start.
    pub fn has_sign_ins(&self) -> bool {
        self.has_sign_ins.load(Ordering::Relaxed)
    }

    /// A number that no other request of these sessions has, on any server.
    pub fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }
}

impl<S: SessionState> Shared<S> {
    pub fn new(config: Config, store: Arc<dyn Store>) -> Result<Self, SessionError> {
        let recorder = Arc::new(Recorder::new(&counter_names::<S>()));
        let store = Arc::new(InstrumentedStore::new(store, Arc::clone(&recorder)));
        let shared_store = Arc::clone(&store) as Arc<dyn Store>;
        let live = Arc::new(Live::new(Arc::clone(&shared_store), config.max_subscribers));
        let queue = Queue::new(
            shared_store,
            config.clone(),
            Arc::clone(&live),
            Arc::clone(&recorder),
        )?;
        let queue = Arc::new(queue);
        // Servers start at far-away numbers, so that no two requests of one session share one.
        let requests = AtomicU64::new(queue.server());
        Ok(Self {
            limiter: CreationLimiter::new(config.new_sessions),
            stats_recorder: config.record_stats.then(StatsRecorder::default),
            has_sign_ins: AtomicBool::new(false),
            recording: tokio::sync::Mutex::default(),
            config,
            store,
            recorder,
            queue,
            live,
            requests,
            checked: tokio::sync::Mutex::default(),
        })
    }

    async fn check_ready(&self) -> Result<(), Refusal> {
        let mut checked = self.checked.lock().await;
        if let Some((at, result)) = *checked
            && at.elapsed() < CHECKED_FOR
        {
            return result;
        }
        // Goes on by itself where nothing waits any more: only a command that has run out of time tells
        // that its connection is useless.
        let store = Arc::clone(&self.store);
        let check = tokio::spawn(async move {
            store.load(&PING).await?;
            store.check_writable().await
        });
        let result = match timeout(CHECK_TIMEOUT, check).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(Refusal::of(&error)),
            Ok(Err(_)) | Err(_) => Err(Refusal::Unreachable),
        };
        *checked = Some((Instant::now(), result));
        result
    }

    async fn clear_expired(&self, progress: impl FnMut(u64)) -> Result<u64, SessionError> {
        let cleared = store::clear_expired(self.store.as_ref(), progress).await?;
        self.recorder.expired.inc_by(cleared);
        Ok(cleared)
    }

    /// Deletes a session's record, and tells its subscribers.
    pub async fn delete(&self, id: Id) -> Result<(), SessionError> {
        self.store.delete(&id).await?;
        self.deleted(id);
        Ok(())
    }

    /// The same, and the index of users forgets the session.
    pub async fn end(&self, id: Id, envelope: &Envelope<S>) -> Result<(), SessionError> {
        self.delete(id).await?;
        self.unindex_users(&envelope.user_entries(id, 0)).await;
        Ok(())
    }

    /// Removes entries from the index of users. One that stays leads to nothing, and is removed by whatever finds it.
    pub async fn unindex_users(&self, entries: &[UserEntry]) {
        if let Some(users) = self.store.users()
            && !entries.is_empty()
            && let Err(error) = users.remove(entries).await
        {
            tracing::debug!(%error, "a sign-in that has ended stays in the index for now");
        }
    }

    /// Adds entries to the index of users, where the store has one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn index_users(&self, entries: &[UserEntry]) -> Result<(), SessionError> {
        if let Some(users) = self.store.users()
            && !entries.is_empty()
        {
            self.saw_sign_in();
            users.add(entries).await?;
        }
        Ok(())
    }

    /// Forgets a session whose record is gone, tells its subscribers, and records it.
    pub fn deleted(&self, id: Id) {
        self.queue.forget(id);
        self.live.changed(id);
        if let Some(stats) = &self.stats_recorder {
            stats.gone(id);
        }
    }
}

/// Whether each counter has a name of its own.
///
/// # Errors
/// The first name that is taken.
fn check_counters(names: &[&'static str]) -> Result<(), ConfigError> {
    for (place, name) in names.iter().enumerate() {
        if Counts::FIELDS.contains(name) || names[..place].contains(name) {
            return Err(ConfigError::CounterName(name));
        }
    }
    Ok(())
}
