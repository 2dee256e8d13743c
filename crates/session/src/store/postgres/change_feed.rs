//! Changes, as servers tell each other of them by `NOTIFY` and `LISTEN`.
//!
//! No request waits for a notification. Ids wait in memory, and one statement sends all that are waiting.
//! PostgreSQL lets transactions that notify commit one after the other, so one for each save would hold saves up.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{
    Error,
    postgres::{PgConnectOptions, PgListener, PgNotification, PgPool, PgPoolOptions},
};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tower_sessions::{session::Id, session_store};

use crate::store::sql::connections::{POOLED, TIMEOUT, plain};
use crate::store::{ChangeEvent, ChangeFeed};

/// Ids in one notification, which holds up to 8,000 bytes.
const TOGETHER: usize = 300;

/// Ids that wait to be told. More become "any of them may have changed".
const MOST_WAITING: usize = 10_000;

/// Notifications that say something else than ids: any session may have changed; the connection is alive.
const ANY: &str = "*";
const ALIVE: &str = "-";

/// After this silence the connection that listens is tried.
const SILENCE: Duration = Duration::from_secs(10);

/// The wait between two tries to listen or to tell.
const RETRY: Duration = Duration::from_millis(250);

/// What tells other servers of changes, and what they tell.
pub struct Feed {
    outgoing: mpsc::Sender<Id>,
    /// Some ids found no place in `outgoing`.
    overflow: Arc<AtomicBool>,
    telling: JoinHandle<()>,
    writes: PgPool,
    channel: String,
    /// The sessions that open pages follow on this server.
    followed: Mutex<HashSet<Id>>,
    /// Held by the one task that receives.
    receiving: AsyncMutex<Receiving>,
}

/// The connection that listens.
struct Receiving {
    options: PgConnectOptions,
    listener: PgListener,
    /// Received, and not yet asked for.
    received: VecDeque<Id>,
}

impl fmt::Debug for Feed {
    /// Without the options of the connection, which have its password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Feed({})", self.channel)
    }
}

impl Feed {
    /// Begins to listen, and makes sure that notifications arrive.
    ///
    /// # Errors
    /// When the server does not respond, or no notification arrives.
    pub async fn open(
        options: PgConnectOptions,
        writes: PgPool,
        channel: String,
    ) -> Result<Self, Error> {
        let mut listener = listen(&options, &channel).await?;
        notify(&writes, &channel, ALIVE).await?;
        // A pooler in transaction mode passes on none.
        if timeout(TIMEOUT, listener.recv()).await.is_err() {
            return Err(Error::Configuration(POOLED.into()));
        }
        let (outgoing, incoming) = mpsc::channel(MOST_WAITING);
        let overflow = Arc::<AtomicBool>::default();
        let telling = tell_all(
            writes.clone(),
            channel.clone(),
            incoming,
            Arc::clone(&overflow),
        );
        Ok(Self {
            outgoing,
            overflow,
            telling: tokio::spawn(telling),
            writes,
            channel,
            followed: Mutex::default(),
            receiving: AsyncMutex::new(Receiving {
                options,
                listener,
                received: VecDeque::new(),
            }),
        })
    }

    /// Tells all servers soon that a session was written or deleted.
    pub fn tell(&self, id: Id) {
        if self.outgoing.try_send(id).is_err() {
            self.overflow.store(true, Ordering::Release);
        }
    }

    /// Tells nothing any more. What has not been told yet is among the sessions that may have changed.
    pub async fn close(&self) {
        self.telling.abort();
        let _ = timeout(TIMEOUT, notify(&self.writes, &self.channel, ANY)).await;
    }

    fn followed(&self) -> MutexGuard<'_, HashSet<Id>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what a notification says. `false`: any session may have changed.
    fn take(&self, receiving: &mut Receiving, payload: &str) -> bool {
        let followed = self.followed();
        let ids = payload.split(' ').filter_map(|id| id.parse().ok());
        receiving
            .received
            .extend(ids.filter(|id| followed.contains(id)));
        payload != ANY
    }

    /// Replaces the connection that listens, however long that takes.
    async fn listen_again(&self, receiving: &mut Receiving) {
        loop {
            match timeout(TIMEOUT, listen(&receiving.options, &self.channel)).await {
                Ok(Ok(listener)) => {
                    receiving.listener = listener;
                    return;
                }
                Ok(Err(error)) => {
                    tracing::debug!(error = plain(&error), "PostgreSQL can't be listened to");
                }
                Err(_) => {}
            }
            sleep(RETRY).await;
        }
    }

    /// Waits for a notification; `None`: the connection is of no more use. A connection may die without a word, so
    /// one that is silent for long is asked for a sign of life.
    async fn notification(&self, listener: &mut PgListener) -> Option<PgNotification> {
        if let Ok(received) = timeout(SILENCE, listener.try_recv()).await {
            return received.ok().flatten();
        }
        let _ = timeout(TIMEOUT, notify(&self.writes, &self.channel, ALIVE)).await;
        let received = timeout(TIMEOUT, listener.try_recv()).await;
        received.ok()?.ok().flatten()
    }
}

#[async_trait::async_trait]
impl ChangeFeed for Feed {
    /// All servers receive all notifications: to follow one more session costs nothing there.
    async fn subscribe(&self, id: &Id) -> session_store::Result<()> {
        self.followed().insert(*id);
        Ok(())
    }

    async fn unsubscribe(&self, id: &Id) -> session_store::Result<()> {
        self.followed().remove(id);
        Ok(())
    }

    async fn next_event(&self) -> ChangeEvent {
        let mut receiving = self.receiving.lock().await;
        loop {
            if let Some(id) = receiving.received.pop_front() {
                return ChangeEvent::Changed(id);
            }
            let Some(notification) = self.notification(&mut receiving.listener).await else {
                self.listen_again(&mut receiving).await;
                return ChangeEvent::Lagged;
            };
            if !self.take(&mut receiving, notification.payload()) {
                return ChangeEvent::Lagged;
            }
        }
    }
}

/// A connection of its own that listens.
async fn listen(options: &PgConnectOptions, channel: &str) -> Result<PgListener, Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(TIMEOUT)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_with(options.clone())
        .await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    // A connection that was away has missed something, which the listener would not say.
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    Ok(listener)
}

async fn notify(pool: &PgPool, channel: &str, payload: &str) -> Result<(), Error> {
    let notify = sqlx::query("select pg_notify($1, $2)")
        .bind(channel)
        .bind(payload);
    notify.execute(pool).await.map(|_| ())
}

/// Sends the ids to all servers. One notification carries all ids that are waiting.
async fn tell_all(
    pool: PgPool,
    channel: String,
    mut incoming: mpsc::Receiver<Id>,
    overflow: Arc<AtomicBool>,
) {
    let mut ids = Vec::new();
    while incoming.recv_many(&mut ids, TOGETHER).await > 0 {
        let different: BTreeSet<String> = ids.drain(..).map(|id| id.to_string()).collect();
        let payload = if overflow.swap(false, Ordering::AcqRel) {
            ANY.to_owned()
        } else {
            different.into_iter().collect::<Vec<_>>().join(" ")
        };
        let mut payload = payload.as_str();
        while !matches!(
            timeout(TIMEOUT, notify(&pool, &channel, payload)).await,
            Ok(Ok(()))
        ) {
            // What could not be told is among the sessions that may have changed.
            payload = ANY;
            sleep(RETRY).await;
        }
    }
}
