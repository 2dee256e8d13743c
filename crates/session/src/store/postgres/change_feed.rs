//! The change feed: servers notify each other of changes by `NOTIFY` and `LISTEN`.
//!
//! No request waits for a notification. The ids of changed sessions wait in memory, and one statement sends all that
//! are waiting. A notification in each save would slow saves down, because PostgreSQL commits transactions that notify
//! one after the other.

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

use crate::store::sql::connections::{TIMEOUT, TRANSACTION_POOLER, plain};
use crate::store::{ChangeEvent, ChangeFeed};

/// The most ids in one notification. PostgreSQL limits its payload to 8,000 bytes.
const MAX_IDS: usize = 300;

/// The most ids that wait to be sent. If there are more, [`ANY_SESSION`] is sent instead.
const MAX_WAITING: usize = 10_000;

/// A payload without ids: any session may have changed.
const ANY_SESSION: &str = "*";

/// A payload without ids: the sender checks whether its notifications arrive.
const PROBE: &str = "-";

/// After how long without a notification the connection is probed.
const SILENCE: Duration = Duration::from_secs(10);

/// The wait between two attempts to listen or to notify.
const RETRY: Duration = Duration::from_millis(250);

/// Notifies other servers of changes, and receives their notifications.
pub struct Feed {
    /// The ids that wait to be sent.
    outgoing: mpsc::Sender<Id>,
    /// Set when `outgoing` had no room for an id.
    overflow: Arc<AtomicBool>,
    /// The task that sends notifications.
    sender: JoinHandle<()>,
    pool: PgPool,
    channel: String,
    /// The sessions that have subscribers on this server.
    subscribed: Mutex<HashSet<Id>>,
    /// Locked by the one task that receives events.
    receiving: AsyncMutex<Receiving>,
}

/// The receiving side of the feed.
struct Receiving {
    options: PgConnectOptions,
    listener: PgListener,
    /// Ids that have been received but not yet returned.
    received: VecDeque<Id>,
}

impl fmt::Debug for Feed {
    /// Omits the connection's options, which contain the password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Feed({})", self.channel)
    }
}

impl Feed {
    /// Starts to listen, and verifies that notifications arrive.
    ///
    /// # Errors
    /// When the server does not respond, or no notification arrives.
    pub async fn open(
        options: PgConnectOptions,
        pool: PgPool,
        channel: String,
    ) -> Result<Self, Error> {
        let mut listener = listen(&options, &channel).await?;
        send_notification(&pool, &channel, PROBE).await?;
        // A pooler in transaction mode does not pass on notifications.
        let received = timeout(TIMEOUT, listener.recv()).await;
        received.map_err(|_| Error::Configuration(TRANSACTION_POOLER.into()))??;
        let (outgoing, waiting) = mpsc::channel(MAX_WAITING);
        let overflow = Arc::<AtomicBool>::default();
        let sender = send_notifications(
            pool.clone(),
            channel.clone(),
            waiting,
            Arc::clone(&overflow),
        );
        Ok(Self {
            outgoing,
            overflow,
            sender: tokio::spawn(sender),
            pool,
            channel,
            subscribed: Mutex::default(),
            receiving: AsyncMutex::new(Receiving {
                options,
                listener,
                received: VecDeque::new(),
            }),
        })
    }

    /// Notifies all servers that a session was written or deleted. Does not wait for the notification.
    pub fn notify(&self, id: Id) {
        if self.outgoing.try_send(id).is_err() {
            self.overflow.store(true, Ordering::Release);
        }
    }

    /// Stops sending ids. A last notification says that any session may have changed, which includes those whose ids
    /// are still waiting.
    pub async fn close(&self) {
        self.sender.abort();
        let notification = send_notification(&self.pool, &self.channel, ANY_SESSION);
        let _ = timeout(TIMEOUT, notification).await;
    }

    fn subscribed(&self) -> MutexGuard<'_, HashSet<Id>> {
        self.subscribed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the subscribed sessions from a notification. `false`: any session may have changed.
    fn receive(&self, receiving: &mut Receiving, payload: &str) -> bool {
        let subscribed = self.subscribed();
        let ids = payload.split(' ').filter_map(|id| id.parse().ok());
        receiving
            .received
            .extend(ids.filter(|id| subscribed.contains(id)));
        payload != ANY_SESSION
    }

    /// Replaces the connection that listens. Retries until it succeeds.
    async fn reconnect(&self, receiving: &mut Receiving) {
        loop {
            match timeout(TIMEOUT, listen(&receiving.options, &self.channel)).await {
                Ok(Ok(listener)) => {
                    receiving.listener = listener;
                    return;
                }
                Ok(Err(error)) => {
                    tracing::debug!(
                        error = plain(&error),
                        "can't listen for notifications from PostgreSQL"
                    );
                }
                Err(_) => {}
            }
            sleep(RETRY).await;
        }
    }

    /// Waits for a notification. `None`: the connection has failed.
    ///
    /// A connection whose peer has vanished is silent. So after a long silence, a notification is sent as a probe.
    async fn notification(&self, listener: &mut PgListener) -> Option<PgNotification> {
        if let Ok(received) = timeout(SILENCE, listener.try_recv()).await {
            return received.ok().flatten();
        }
        let probe = send_notification(&self.pool, &self.channel, PROBE);
        let _ = timeout(TIMEOUT, probe).await;
        let received = timeout(TIMEOUT, listener.try_recv()).await;
        received.ok()?.ok().flatten()
    }
}

#[async_trait::async_trait]
impl ChangeFeed for Feed {
    /// Needs no statement, because every server receives all notifications.
    async fn subscribe(&self, id: &Id) -> session_store::Result<()> {
        self.subscribed().insert(*id);
        Ok(())
    }

    async fn unsubscribe(&self, id: &Id) -> session_store::Result<()> {
        self.subscribed().remove(id);
        Ok(())
    }

    async fn next_event(&self) -> ChangeEvent {
        let mut receiving = self.receiving.lock().await;
        loop {
            if let Some(id) = receiving.received.pop_front() {
                return ChangeEvent::Changed(id);
            }
            let Some(notification) = self.notification(&mut receiving.listener).await else {
                self.reconnect(&mut receiving).await;
                return ChangeEvent::Lagged;
            };
            if !self.receive(&mut receiving, notification.payload()) {
                return ChangeEvent::Lagged;
            }
        }
    }
}

/// Opens a connection of its own that listens on the channel.
async fn listen(options: &PgConnectOptions, channel: &str) -> Result<PgListener, Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(TIMEOUT)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_with(options.clone())
        .await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    // `Feed::reconnect` replaces a lost connection, so the listener must not do it as well.
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    Ok(listener)
}

async fn send_notification(pool: &PgPool, channel: &str, payload: &str) -> Result<(), Error> {
    let notify = sqlx::query("select pg_notify($1, $2)")
        .bind(channel)
        .bind(payload);
    notify.execute(pool).await.map(|_| ())
}

/// Notifies all servers of the waiting ids, up to [`MAX_IDS`] at a time.
async fn send_notifications(
    pool: PgPool,
    channel: String,
    mut waiting: mpsc::Receiver<Id>,
    overflow: Arc<AtomicBool>,
) {
    let mut ids = Vec::new();
    while waiting.recv_many(&mut ids, MAX_IDS).await > 0 {
        let unique: BTreeSet<String> = ids.drain(..).map(|id| id.to_string()).collect();
        let payload = if overflow.swap(false, Ordering::AcqRel) {
            ANY_SESSION.to_owned()
        } else {
            unique.into_iter().collect::<Vec<_>>().join(" ")
        };
        let mut payload = payload.as_str();
        while !matches!(
            timeout(TIMEOUT, send_notification(&pool, &channel, payload)).await,
            Ok(Ok(()))
        ) {
            // More ids wait by now, and this covers them as well.
            payload = ANY_SESSION;
            sleep(RETRY).await;
        }
    }
}
