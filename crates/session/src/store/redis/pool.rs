//! Connections to Redis that are replaced when they have become useless.
//!
//! fred reconnects by itself where a connection closes. Three kinds of useless connections never close:
//! one whose peer has vanished without a word, one to a master that has become a replica, and a client
//! whose own task has ended. A supervisor for each connection makes a new one then, which looks the
//! address up again and asks Sentinel or the Cluster's other nodes.
//!
//! fred has options for two of these kinds. Its `UnresponsiveConfig` measures from the last write, so under
//! load it never notices a silent peer; its `reconnect_errors` replaces only the one connection that got
//! the error. Hence the code of our own.

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

/// How long a connection in doubt may take to answer a PING.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a new connection may take, with all that it asks on its way.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// The shortest and the longest wait between two new connections in one place.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A connection that has lasted longer than this did not come too soon.
const LASTED: Duration = Duration::from_secs(5);

/// What makes a connection useless although it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A command got no response in time: the peer may have vanished, or is slow.
    Silent,
    /// The server answers that it is no master, or can't act as one.
    Demoted,
}

impl Fault {
    /// The fault that an error tells of, by its text: tower-sessions passes on nothing else.
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

/// The faults seen so far. A connection serves only while it has been verified since the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    all: u64,
    demoted: u64,
}

/// Tells all connections to one store of faults.
#[derive(Clone, Debug, Default)]
pub struct Health {
    faults: Arc<watch::Sender<Faults>>,
    verified: Arc<Notify>,
}

impl Health {
    /// Every connection is in doubt until it has been verified or replaced.
    pub fn report(&self, fault: Fault) {
        self.faults.send_modify(|faults| {
            faults.all += 1;
            faults.demoted += u64::from(fault == Fault::Demoted);
        });
    }

    /// The faults from now on.
    pub fn subscribe(&self) -> watch::Receiver<Faults> {
        self.faults.subscribe()
    }
}

/// Whether a connection has to be replaced for what has happened since `seen`, whatever it answers.
pub fn is_demoted(seen: Faults, now: Faults) -> bool {
    seen.demoted != now.demoted
}

/// A connected client with its task. Dropped, both end, and its commands fail.
pub struct Connected {
    pub client: Client,
    task: Task,
}

/// A client's task, which ends when this is dropped.
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
                _ => Err(Error::new(ErrorKind::IO, "the connection ended at once")),
            },
        }
    };
    let late = |_| {
        Error::new(
            ErrorKind::Timeout,
            format!("no answer in {CONNECT_LIMIT:?}"),
        )
    };
    timeout(CONNECT_LIMIT, connecting).await.map_err(late)??;
    Ok(task)
}

/// The builder with what is known of a Cluster's nodes beside those that the settings name.
pub fn with_nodes(builder: &Builder, nodes: &[Server]) -> Builder {
    let mut builder = builder.clone();
    builder.with_config(|config| {
        if let ServerConfig::Clustered { hosts, .. } = &mut config.server {
            hosts.extend_from_slice(nodes);
        }
    });
    builder
}

/// Whether every server that the client is connected to answers.
pub async fn answers(client: &Client) -> bool {
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

/// A fixed number of connections, handed out in turn.
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

/// The place of one connection.
struct Member {
    builder: Builder,
    client: RwLock<Client>,
    /// The number of faults when it was last known to be good.
    verified: AtomicU64,
    health: Health,
}

impl Pool {
    /// Makes the connections, and looks after them from then on.
    ///
    /// # Errors
    /// When one can't be made.
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

    /// The next connection in turn that is known to be good; waits for one where there is none.
    ///
    /// # Errors
    /// When there is none for as long as a command may take.
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

    /// One that is connected where possible: commands for another wait until it has reconnected.
    fn pick(&self) -> Option<Client> {
        let faults = self.health.faults.borrow().all;
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.members.len();
        let mut reconnecting = None;
        for place in 0..count {
            let member = &self.members[first.wrapping_add(place) % count];
            if member.verified.load(Ordering::Acquire) < faults {
                continue;
            }
            let client = member.client();
            if client.is_connected() {
                return Some(client);
            }
            reconnecting.get_or_insert(client);
        }
        reconnecting
    }

    /// Closes the connections for good.
    pub async fn quit(&self) {
        self.supervisors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .abort_all();
        let clients: Vec<Client> = self.members.iter().map(|member| member.client()).collect();
        join_all(clients.iter().map(ClientLike::quit)).await;
    }
}

/// Makes a connection that nobody looks after.
///
/// # Errors
/// When it can't be made in time.
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

    /// Replaces the connection whenever it has become useless.
    async fn supervise(
        self: Arc<Self>,
        mut task: Task,
        mut faults: watch::Receiver<Faults>,
        mut seen: Faults,
    ) {
        let mut wait = Wait::default();
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
            let useless = ended || is_demoted(seen, now);
            if useless || !answers(&self.client()).await {
                task = self.replace(task, useless, &mut wait).await;
            }
            self.verified.fetch_max(now.all, Ordering::AcqRel);
            self.health.verified.notify_waiters();
            seen = now;
        }
    }

    /// Tries until there is a new connection, or until the old one answers again, unless that would not
    /// help. Returns the task of the one in use.
    async fn replace(&self, old: Task, useless: bool, wait: &mut Wait) -> Task {
        let nodes = self.client().active_connections();
        loop {
            wait.until_due().await;
            match connect(&self.builder, &nodes).await {
                Ok(connected) => {
                    let mut client = self.client.write().unwrap_or_else(PoisonError::into_inner);
                    *client = connected.client;
                    tracing::debug!(useless, "a connection to Redis was replaced");
                    return connected.task;
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to Redis can't be replaced yet")
                }
            }
            if !useless && answers(&self.client()).await {
                return old;
            }
        }
    }
}

/// Grows between connections that come too soon after each other.
struct Wait {
    last: Option<Instant>,
    length: Duration,
}

impl Default for Wait {
    fn default() -> Self {
        Self {
            last: None,
            length: SHORTEST_WAIT,
        }
    }
}

impl Wait {
    async fn until_due(&mut self) {
        if let Some(last) = self.last {
            let since = last.elapsed();
            if since > LASTED {
                self.length = SHORTEST_WAIT;
            } else {
                sleep(self.length.saturating_sub(since)).await;
                self.length = (2 * self.length).min(LONGEST_WAIT);
            }
        }
        self.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_by_an_errors_text() {
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
