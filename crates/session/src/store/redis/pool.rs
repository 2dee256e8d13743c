//! Pools of connections to Redis that replace connections that have become useless.
//!
//! fred reconnects on its own when a connection closes. Three kinds of useless connections never close: one whose peer
//! has vanished, one to a master that has become a replica, and a client whose own task has ended. A supervisor of each
//! connection replaces it then. The new connection resolves the address again, and queries Sentinel or the Cluster's
//! other nodes.
//!
//! fred has options for two of these kinds, but they are not enough. `UnresponsiveConfig` measures from the last write,
//! so under load it never notices a silent peer. `reconnect_errors` replaces only the connection that got the error.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fred::{
    error::{Error, ErrorKind},
    prelude::{Builder, Client, ClientLike},
    types::{
        ConnectHandle, CustomCommand, Value,
        config::{Server, ServerConfig},
    },
};
use futures_util::future::join_all;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::COMMAND_TIMEOUT;

/// How long a suspect connection may take to respond to a PING.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a new connection may take, with all its queries to Sentinel or a Cluster.
const CONNECT_DEADLINE: Duration = Duration::from_secs(4);

/// The shortest and the longest time between two new connections of the same supervisor.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A connection that has lasted this long resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// A fault that makes an open connection useless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A command timed out. The peer may have vanished, or is slow.
    Silent,
    /// The server responds that it is not a master, or can't act as one.
    Demoted,
}

impl Fault {
    /// The fault that an error shows. It is recognised by its text, because tower-sessions passes on nothing else.
    pub fn of(error: &str) -> Option<Self> {
        let demoted = ["READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN"];
        if demoted.iter().any(|word| error.contains(word)) {
            Some(Self::Demoted)
        } else if error.starts_with("Timeout Error") {
            Some(Self::Silent)
        } else {
            None
        }
    }
}

/// The number of faults so far. A connection is used only if it has been verified since the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    all: u64,
    demoted: u64,
}

/// Notifies all connections to a store of faults.
#[derive(Clone, Debug, Default)]
pub struct Health {
    faults: Arc<watch::Sender<Faults>>,
    verified: Arc<Notify>,
}

impl Health {
    /// Reports a fault. Every connection is suspect until it has been verified or replaced.
    pub fn report(&self, fault: Fault) {
        self.faults.send_modify(|faults| {
            faults.all += 1;
            faults.demoted += u64::from(fault == Fault::Demoted);
        });
    }

    /// Subscribes to the faults from now on.
    pub fn subscribe(&self) -> watch::Receiver<Faults> {
        self.faults.subscribe()
    }
}

/// Whether a fault since `seen` requires a connection to be replaced, even if it responds.
pub fn must_replace(seen: Faults, now: Faults) -> bool {
    seen.demoted != now.demoted
}

/// A connected client with its task. Dropping it ends both, and its commands fail.
pub struct Connected {
    pub client: Client,
    task: Task,
}

/// The task of a client. Dropping it aborts the task.
pub struct Task(pub ConnectHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until a client has connected, and returns its task.
///
/// # Errors
/// When it can't connect in time.
pub async fn connected<C: ClientLike>(client: &C) -> Result<Task, Error> {
    let mut task = Task(client.connect());
    let connecting = async {
        tokio::select! {
            result = client.wait_for_connect() => result,
            ended = &mut task.0 => match ended {
                Ok(Err(error)) => Err(error),
                _ => Err(Error::new(ErrorKind::IO, "the connection closed at once")),
            },
        }
    };
    let late = |_| {
        Error::new(
            ErrorKind::Timeout,
            format!("no response in {CONNECT_DEADLINE:?}"),
        )
    };
    timeout(CONNECT_DEADLINE, connecting)
        .await
        .map_err(late)??;
    Ok(task)
}

/// Adds the known nodes of a Cluster to those in the builder's config.
pub fn with_nodes(builder: &Builder, nodes: &[Server]) -> Builder {
    let mut builder = builder.clone();
    builder.with_config(|config| {
        if let ServerConfig::Clustered { hosts, .. } = &mut config.server {
            hosts.extend_from_slice(nodes);
        }
    });
    builder
}

/// Whether every server that a client is connected to responds.
pub async fn responds(client: &Client) -> bool {
    let servers = client.active_connections();
    let probes = servers.iter().map(|server| async {
        if client.is_clustered() {
            ping(&client.with_cluster_node(server.clone())).await
        } else {
            ping(client).await
        }
    });
    let probes = join_all(probes);
    let answered = timeout(PROBE_TIMEOUT, probes).await;
    !servers.is_empty() && answered.is_ok_and(|all| all.into_iter().all(|one| one.is_ok()))
}

async fn ping<C: ClientLike>(client: &C) -> Result<(), Error> {
    let ping = CustomCommand::new_static("PING", None, false);
    client
        .custom::<Value, Value>(ping, Vec::new())
        .await
        .map(|_| ())
}

/// A fixed number of connections, used in turn.
pub struct Pool {
    members: Vec<Arc<Member>>,
    next: AtomicUsize,
    health: Health,
    supervisors: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pool({})", self.members.len())
    }
}

/// A slot of the pool, with its current connection.
struct Member {
    builder: Builder,
    client: RwLock<Client>,
    /// The number of faults when the connection was last verified.
    verified: AtomicU64,
    health: Health,
}

impl Pool {
    /// Opens the connections, and starts their supervisors.
    ///
    /// # Errors
    /// When a connection can't be opened.
    pub async fn connect(builder: &Builder, size: usize, health: &Health) -> Result<Self, Error> {
        let mut members = Vec::with_capacity(size);
        let mut supervisors = JoinSet::new();
        for _ in 0..size {
            let faults = health.subscribe();
            let seen = *faults.borrow();
            let connected = connect(builder, &[]).await?;
            let member = Arc::new(Member {
                builder: builder.clone(),
                client: RwLock::new(connected.client),
                verified: AtomicU64::new(seen.all),
                health: health.clone(),
            });
            supervisors.spawn(Arc::clone(&member).supervise(connected.task, faults, seen));
            members.push(member);
        }
        Ok(Self {
            members,
            next: AtomicUsize::new(0),
            health: health.clone(),
            supervisors: Mutex::new(supervisors),
        })
    }

    /// Returns the next verified connection in turn, or waits for one.
    ///
    /// # Errors
    /// When there is none within the timeout of a command.
    pub async fn client(&self) -> Result<Client, Error> {
        if let Some(client) = self.pick() {
            return Ok(client);
        }
        let good = async {
            loop {
                let verified = self.health.verified.notified();
                if let Some(client) = self.pick() {
                    return client;
                }
                verified.await;
            }
        };
        let none = |_| Error::new(ErrorKind::IO, "no connection to the server");
        timeout(COMMAND_TIMEOUT, good).await.map_err(none)
    }

    /// Picks a verified connection. It prefers one that is connected, because the commands of another one wait until it
    /// has reconnected.
    fn pick(&self) -> Option<Client> {
        let faults = self.health.faults.borrow().all;
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.members.len();
        let mut disconnected = None;
        for offset in 0..count {
            let member = &self.members[first.wrapping_add(offset) % count];
            if member.verified.load(Ordering::Acquire) < faults {
                continue;
            }
            let client = member.client();
            if client.is_connected() {
                return Some(client);
            }
            disconnected.get_or_insert(client);
        }
        disconnected
    }

    /// Closes the connections and ends their supervisors.
    pub async fn quit(&self) {
        self.supervisors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .abort_all();
        let clients: Vec<Client> = self.members.iter().map(|member| member.client()).collect();
        join_all(clients.iter().map(ClientLike::quit)).await;
    }
}

/// Opens a connection without a supervisor.
///
/// # Errors
/// When it can't be opened in time.
pub async fn connect(builder: &Builder, nodes: &[Server]) -> Result<Connected, Error> {
    let client = with_nodes(builder, nodes).build()?;
    let task = connected(&client).await?;
    Ok(Connected { client, task })
}

impl Member {
    fn client(&self) -> Client {
        self.client
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces the connection whenever it has become useless, for as long as the pool exists.
    async fn supervise(
        self: Arc<Self>,
        mut task: Task,
        mut faults: watch::Receiver<Faults>,
        mut seen: Faults,
    ) {
        let mut backoff = Backoff::default();
        loop {
            let ended = tokio::select! {
                _ = &mut task.0 => true,
                changed = faults.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    false
                }
            };
            let now = *faults.borrow_and_update();
            let is_useless = ended || must_replace(seen, now);
            if is_useless || !responds(&self.client()).await {
                task = self.replace(task, is_useless, &mut backoff).await;
            }
            self.verified.fetch_max(now.all, Ordering::AcqRel);
            self.health.verified.notify_waiters();
            seen = now;
        }
    }

    /// Tries until there is a new connection. If the old one is only suspect, it also stops when that one responds
    /// again. Returns the task of the connection in use.
    async fn replace(&self, old: Task, is_useless: bool, backoff: &mut Backoff) -> Task {
        let nodes = self.client().active_connections();
        loop {
            backoff.until_due().await;
            match connect(&self.builder, &nodes).await {
                Ok(connected) => {
                    let mut client = self.client.write().unwrap_or_else(PoisonError::into_inner);
                    *client = connected.client;
                    tracing::debug!(is_useless, "a connection to Redis was replaced");
                    return connected.task;
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to Redis can't be replaced yet");
                }
            }
            if !is_useless && responds(&self.client()).await {
                return old;
            }
        }
    }
}

/// The wait between new connections, which doubles while connections don't last.
struct Backoff {
    last: Option<Instant>,
    length: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            last: None,
            length: MIN_BACKOFF,
        }
    }
}

impl Backoff {
    async fn until_due(&mut self) {
        if let Some(last) = self.last {
            let since = last.elapsed();
            if since > STABLE_AFTER {
                self.length = MIN_BACKOFF;
            } else {
                sleep(self.length.saturating_sub(since)).await;
                self.length = (2 * self.length).min(MAX_BACKOFF);
            }
        }
        self.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_recognised_by_the_error_message() {
        let fault = |text| Fault::of(text);
        assert_eq!(
            fault("Timeout Error: Request timed out."),
            Some(Fault::Silent)
        );
        let script =
            "Unknown Error: READONLY You can't write against a read only replica. script: x";
        assert_eq!(fault(script), Some(Fault::Demoted));
        assert_eq!(
            fault("Unknown Error: LOADING Redis is loading the dataset in memory"),
            Some(Fault::Demoted)
        );
        assert_eq!(fault("Unknown Error: OOM command not allowed"), None);
    }
}
