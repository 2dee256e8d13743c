//! The session manager, which an application opens once: the store, the config and the background tasks.

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

/// How long the result of a readiness check is reused.
const READINESS_TTL: Duration = Duration::from_secs(1);

/// How long a readiness check may take. Load balancers check again after a few seconds.
const READINESS_TIMEOUT: Duration = Duration::from_secs(1);

/// The id of the record that a readiness check loads. No session has it, because no known id hashes to it.
const PING: Id = Id(0);

/// The reason why a [`SessionManager`] can't be created. Its message is one line, without the store's password.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL names no known engine.
    #[error("not a store's URL; allowed: {0}")]
    Url(&'static str),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The config is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The operating system provides no random numbers.
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
    /// Dropped, and so aborted, with the last clone.
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
    /// Opens the store at a URL with the default config, and starts the background tasks.
    ///
    /// # Errors
    /// When the URL names no known engine or one whose feature is disabled, or when the store can't be reached.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        let url = StoreUrl::parse(url).map_err(ConnectError::Url)?;
        let store = store::open(&StoreOptions::new(url)).await?;
        let manager = Self::new(store, Config::default())?;
        manager.start();
        Ok(manager)
    }

    /// Creates a manager of the sessions in a store. [`SessionManager::start`] starts the background tasks.
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
    /// When [`Config::check`] fails, when a name in [`SessionState::COUNTERS`] is already taken, or when the operating
    /// system provides no random numbers.
    pub fn new(store: Arc<dyn Store>, config: Config) -> Result<Self, ConnectError> {
        config.check()?;
        check_counters(&counter_names::<S>())?;
        Ok(Self {
            shared: Arc::new(Shared::new(config, store)?),
            tasks: Arc::default(),
        })
    }

    /// Starts the background tasks. A second call does nothing.
    ///
    /// The tasks remove expired sessions from stores that keep them, notify subscribers of other servers' changes,
    /// keep the index of users up to date, and record statistics if the config asks for them. They end when the last
    /// clone of this manager and of its layers is dropped.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if !tasks.is_empty() {
            return;
        }
        let shared = || Arc::clone(&self.shared);
        tasks.spawn(Arc::clone(&self.shared.live).apply_remote());
        tasks.spawn(clear_periodically(shared()));
        tasks.spawn(auth::check_entries(shared()));
        if self.shared.stats_recorder.is_some() {
            tasks.spawn(shared().record_stats());
            tasks.spawn(shared().backfill_index());
        }
    }

    /// Returns the layer that gives each request its session.
    pub fn layer(&self) -> SessionLayer<S> {
        SessionLayer::new(self.clone())
    }

    /// The config of these sessions.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The metrics of this process.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            subscribers: self.shared.live.subscribers() as u64,
            store_log_bytes: self.shared.store.log_bytes(),
            ..self.shared.recorder.snapshot()
        }
    }

    /// Checks that the store can be read and written. The result is cached for a second.
    ///
    /// # Errors
    /// The reason why it can't be.
    pub async fn check_ready(&self) -> Result<(), Refusal> {
        self.shared.check_ready().await
    }

    /// Removes all expired records, in batches, and returns their number. It is 0 for stores that remove them on their
    /// own. `progress` gets the count so far after each batch.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn clear_expired(&self, progress: impl FnMut(u64)) -> Result<u64, SessionError> {
        self.shared.clear_expired(progress).await
    }

    /// Ends every subscription and refuses new ones. Call it when the server is about to stop.
    pub fn close_subscriptions(&self) {
        self.shared.live.close();
    }

    /// Records the last statistics, if the background tasks were started, and closes the store. Call it before the
    /// process ends.
    pub async fn close(&self) {
        if self.is_started() {
            // The first call may only retry a failed batch. The second one records what has happened since.
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

async fn clear_periodically<S: SessionState>(shared: Arc<Shared<S>>) {
    let mut ticks = interval(CLEAR_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.limiter.evict_idle();
        // The store logs its outages itself.
        if let Err(error) = shared.clear_expired(|_| ()).await {
            tracing::debug!(%error, "expired sessions could not be removed");
        }
    }
}

/// The state that all requests share.
#[derive(Debug)]
pub(crate) struct Shared<S> {
    pub config: Config,
    pub store: Arc<InstrumentedStore>,
    pub limiter: CreationLimiter,
    pub recorder: Arc<Recorder>,
    pub queue: Arc<Queue<S>>,
    pub live: Arc<Live<S>>,
    /// The statistics for the operator's console.
    pub stats_recorder: Option<StatsRecorder>,
    /// This server has seen a sign-in, so the index of users is worth its cost.
    has_sign_ins: AtomicBool,
    /// Held while statistics are written, so that they are written in order.
    pub recording: tokio::sync::Mutex<()>,
    requests: AtomicU64,
    /// The time and the result of the last readiness check.
    checked: tokio::sync::Mutex<Option<(Instant, Result<(), Refusal>)>>,
}

impl<S> Shared<S> {
    /// Records that this server has seen a sign-in.
    pub fn set_has_sign_ins(&self) {
        if !self.has_sign_ins.load(Ordering::Relaxed) {
            self.has_sign_ins.store(true, Ordering::Relaxed);
        }
    }

    /// Whether this server has seen a sign-in since it started.
    pub fn has_sign_ins(&self) -> bool {
        self.has_sign_ins.load(Ordering::Relaxed)
    }

    /// A number that is unique among all requests, on all servers.
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
        // Each server starts at a random number, so that no two servers count through the same ones.
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
            && at.elapsed() < READINESS_TTL
        {
            return result;
        }
        // A task, so that the check goes on when its caller is dropped: only a command that times out shows that its
        // connection is dead.
        let store = Arc::clone(&self.store);
        let check = tokio::spawn(async move {
            store.load(&PING).await?;
            store.check_writable().await
        });
        let result = match timeout(READINESS_TIMEOUT, check).await {
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

    /// Deletes a session's record and notifies its subscribers.
    pub async fn delete(&self, id: Id) -> Result<(), SessionError> {
        self.store.delete(&id).await?;
        self.on_deleted(id);
        Ok(())
    }

    /// Deletes a session as [`Shared::delete`] does, and removes it from the index of users.
    pub async fn end(&self, id: Id, envelope: &Envelope<S>) -> Result<(), SessionError> {
        self.delete(id).await?;
        self.unindex_users(&envelope.user_entries(id, 0)).await;
        Ok(())
    }

    /// Removes entries from the index of users. A failure does no harm: a leftover entry refers to no sign-in, and is
    /// removed when it is next read.
    pub async fn unindex_users(&self, entries: &[UserEntry]) {
        if let Some(users) = self.store.users()
            && !entries.is_empty()
            && let Err(error) = users.remove(entries).await
        {
            tracing::debug!(%error, "an ended sign-in could not be removed from the index of users yet");
        }
    }

    /// Adds entries to the index of users, if the store has one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn index_users(&self, entries: &[UserEntry]) -> Result<(), SessionError> {
        if let Some(users) = self.store.users()
            && !entries.is_empty()
        {
            self.set_has_sign_ins();
            users.add(entries).await?;
        }
        Ok(())
    }

    /// Cleans up after a session's record has been deleted: removes it from the cache, notifies its subscribers, and
    /// records the deletion.
    pub fn on_deleted(&self, id: Id) {
        self.queue.forget(id);
        self.live.changed(id);
        if let Some(stats) = &self.stats_recorder {
            stats.gone(id);
        }
    }
}

/// Checks that each counter's name is unique.
///
/// # Errors
/// The first name that is already taken.
fn check_counters(names: &[&'static str]) -> Result<(), ConfigError> {
    for (index, name) in names.iter().enumerate() {
        if Counts::FIELDS.contains(name) || names[..index].contains(name) {
            return Err(ConfigError::CounterName(name));
        }
    }
    Ok(())
}
