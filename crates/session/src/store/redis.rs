//! Redis and Valkey: for production and for more than one server.

mod batch_writer;
mod deploy;
mod index;
mod pool;
mod redirects;
mod subscriber;
mod users;
mod values;

use std::{sync::Arc, time::Duration};

use fred::{
    bytes_utils::Str,
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::KeysInterface,
    prelude::{Builder, ClientLike, Config, ReconnectPolicy},
    types::{CustomCommand, Expiration, SetOptions, Value, config::ServerConfig, scripts::Script},
    util::redis_keyslot,
};
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};
use tower_sessions_redis_store::RedisStore;

use super::{
    ChangeEvent, ChangeFeed, DeleteExpired, Diagnostics, EncodedRecord, Store, Swap, UserIndex,
    Values, backend, decoded, encoded,
    index::{SessionIndex, StatsStore},
};
use batch_writer::BatchWriter;
use pool::{Fault, Health, Pool};
use redirects::Redirects;
use subscriber::{Event, Subscriber};

/// Connections of each pool: commands are pipelined, so a few carry thousands of requests.
const CONNECTIONS: usize = 2;

/// Connections for writes that wait for replicas: each waits with its connection.
const WAITING_CONNECTIONS: usize = 16;

/// How long a command may take before the request is answered 503.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest save that goes together with others, in bytes of both records: a larger one would
/// hold them up.
const LARGEST_BATCHED: usize = 8_192;

/// How long a new connection may take to be made and greeted.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a save waits for its replicas, in milliseconds: the connection waits with it.
const REPLICATION_TIMEOUT: i64 = 500;

/// The scripts. Each file names its arguments at its top.
const COMPARE_AND_SWAP: &str = include_str!("redis/lua/compare_and_swap.lua");
const COMPARE_AND_REPLICATE: &str = include_str!("redis/lua/compare_and_replicate.lua");
const CREATE: &str = include_str!("redis/lua/create.lua");
const COMPARE_AND_DELETE: &str = include_str!("redis/lua/compare_and_delete.lua");
const DELETE: &str = include_str!("redis/lua/delete.lua");
const WRITE_PROBE: &str = include_str!("redis/lua/write_probe.lua");

/// After the prefix: the key of [`WRITE_PROBE`].
const PROBE: &str = "probe";

/// Records as tower-sessions' Redis store keeps them, and what is written on a condition.
#[derive(Debug)]
pub struct Redis {
    reads: Pool,
    writes: Arc<Pool>,
    health: Health,
    /// For keys of a Cluster that are being moved; elsewhere there are no redirections.
    redirects: Option<Redirects>,
    /// Takes the saves of ordinary size, where one server has all keys and no replica is waited for.
    batch_writer: Option<BatchWriter>,
    subscriber: Subscriber,
    uses_sentinels: bool,
    /// So many replicas must have what is written before it counts as written.
    replicas: u32,
    /// Before every key and every channel.
    prefix: String,
    create: Script,
    save: Script,
    delete_old: Script,
    delete: Script,
    probe: Script,
    scripts: index::Scripts,
    user_scripts: users::Scripts,
    value_scripts: values::Scripts,
}

/// Reads a URL as fred does, and `db` of a unix socket's, which has no other place for it.
///
/// # Errors
/// When it is no URL of a Redis.
pub fn config(url: &str) -> Result<Config, Error> {
    let mut config = Config::from_url(url)?;
    if let ServerConfig::Unix { path } = &mut config.server {
        let parsed = url::Url::parse(url)?;
        let database = parsed.query_pairs().find(|(name, _)| name == "db");
        if let Some((_, database)) = database {
            let no_number = |_| Error::new(ErrorKind::Config, "db is no number");
            config.database = Some(database.parse().map_err(no_number)?);
        }
        *path = parsed.path().into();
    }
    Ok(config)
}

/// Connects, and from then on reconnects by itself.
///
/// # Errors
/// When the server can't be reached or refuses the connection.
pub async fn open(url: &str, replicas: u32, prefix: &str) -> Result<Redis, Error> {
    let config = config(url)?;
    let (is_clustered, uses_sentinels) =
        (config.server.is_clustered(), config.server.is_sentinel());
    let builder = builder(config);
    let health = Health::default();
    let reads = Pool::connect(&builder, CONNECTIONS, &health).await?;
    let subscriber = Subscriber::connect(builder.clone(), &health).await?;
    let mut for_writes = builder.clone();
    for_writes.with_connection_config(|connection| {
        // Whoever waits for a write must hear that its connection broke: it may have been done.
        connection.max_command_attempts = 1;
    });
    let size = if replicas == 0 {
        CONNECTIONS
    } else {
        WAITING_CONNECTIONS
    };
    let writes = Arc::new(Pool::connect(&for_writes, size, &health).await?);
    Ok(Redis {
        batch_writer: if replicas == 0 && !is_clustered {
            Some(BatchWriter::start(&writes).await?)
        } else {
            None
        },
        redirects: is_clustered.then(|| Redirects::new(builder)),
        reads,
        writes,
        health,
        subscriber,
        uses_sentinels,
        replicas,
        prefix: prefix.to_owned(),
        create: Script::from_lua(CREATE),
        save: Script::from_lua(if replicas == 0 {
            COMPARE_AND_SWAP
        } else {
            COMPARE_AND_REPLICATE
        }),
        delete_old: Script::from_lua(COMPARE_AND_DELETE),
        delete: Script::from_lua(DELETE),
        probe: Script::from_lua(WRITE_PROBE),
        scripts: index::Scripts::default(),
        user_scripts: users::Scripts::default(),
        value_scripts: values::Scripts::default(),
    })
}

/// What all connections have in common.
fn builder(config: Config) -> Builder {
    let mut builder = Builder::from_config(config);
    builder
        .with_performance_config(|performance| {
            performance.default_command_timeout = COMMAND_TIMEOUT;
        })
        .with_connection_config(|connection| {
            connection.connection_timeout = CONNECT_TIMEOUT;
            connection.internal_command_timeout = CONNECT_TIMEOUT;
            // What is written is a whole command, and somebody waits for it.
            connection.tcp.nodelay = Some(true);
            // See redirects.rs. What a redirection sends to another node would go there without the wait
            // for replicas behind it, too.
            connection.max_redirections = 0;
        })
        // Without end, and with waits that no client notices.
        .set_policy(ReconnectPolicy::new_exponential(0, 20, 250, 2));
    builder
}

#[async_trait::async_trait]
impl SessionStore for Redis {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let arguments = vec![encoded(record)?, expires_at(record)];
        let created = self.run(&self.create, &record.id, arguments).await?;
        if created == Value::Integer(1) {
            return Ok(());
        }
        Err(backend("there is a record of this id already"))
    }

    /// Waits for no replica; the sessions save on a condition alone.
    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let (key, bytes) = (self.key(&record.id), encoded(record)?);
        let expiry = Expiration::EXAT(record.expiry_date.unix_timestamp());
        let save = |client: Client| async {
            let client = client;
            if self.prefix.is_empty() {
                return RedisStore::new(client).save(record).await;
            }
            let (expiry, only) = (Some(expiry.clone()), Some(SetOptions::XX));
            let saved = client.set(&key, bytes.as_slice(), expiry, only, false);
            saved.await.map_err(backend)
        };
        self.send(&self.writes, save).await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        match self.load_once(id).await {
            // The connection has been replaced, or is about to be: another one may have the response.
            Err(session_store::Error::Backend(text)) if is_lost(&text) => self.load_once(id).await,
            other => other,
        }
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.run(&self.delete, id, Vec::new()).await.map(|_| ())
    }
}

#[async_trait::async_trait]
impl Store for Redis {
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap> {
        let size = old.bytes()?.len() + new.bytes()?.len();
        let arguments = [
            old.bytes()?.to_vec(),
            new.bytes()?.to_vec(),
            expires_at(new),
        ];
        let found = match &self.batch_writer {
            Some(writer) if size <= LARGEST_BATCHED => {
                self.reported(writer.submit(self.key(&old.id), arguments).await)
            }
            _ => self.run(&self.save, &old.id, arguments.to_vec()).await,
        };
        match found {
            Ok(value) => Ok(swapped(value)),
            // What is there is no record: loading it says so.
            Err(error) if is_foreign(&error) => Ok(Swap::Conflict(None)),
            Err(error) => Err(error),
        }
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        let deleted = self.run(&self.delete_old, &old.id, vec![old.bytes()?.to_vec()]);
        Ok(deleted.await? == Value::Integer(1))
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        Some(self)
    }

    fn stats(&self) -> Option<&dyn StatsStore> {
        Some(self)
    }

    fn users(&self) -> Option<&dyn UserIndex> {
        Some(self)
    }

    fn values(&self) -> Option<&dyn Values> {
        Some(self)
    }

    async fn close(&self) {
        tokio::join!(
            self.subscriber.quit(),
            self.writes.quit(),
            self.reads.quit()
        );
        tracing::debug!("the connections to Redis are closed");
    }

    fn delete_expired(&self) -> Option<&dyn DeleteExpired> {
        Some(self)
    }

    fn change_feed(&self) -> Option<&dyn ChangeFeed> {
        Some(self)
    }

    fn diagnostics(&self) -> Option<&dyn Diagnostics> {
        Some(self)
    }
}

#[async_trait::async_trait]
impl DeleteExpired for Redis {
    /// Redis drops what has expired by itself; the lists that the console is shown need a hand.
    async fn delete_expired(&self, limit: u32) -> session_store::Result<u64> {
        self.clear_lists(limit).await
    }
}

#[async_trait::async_trait]
impl ChangeFeed for Redis {
    async fn subscribe(&self, id: &Id) -> session_store::Result<()> {
        let subscribed = self.subscriber.subscribe(self.key(id)).await;
        self.reported(subscribed.map_err(backend))
    }

    async fn unsubscribe(&self, id: &Id) -> session_store::Result<()> {
        let unsubscribed = self.subscriber.unsubscribe(self.key(id)).await;
        unsubscribed.map_err(backend)
    }

    async fn next_event(&self) -> ChangeEvent {
        loop {
            match self.subscriber.next_event().await {
                Event::Lagged => return ChangeEvent::Lagged,
                Event::Message(message) => {
                    if let Some(id) = self.id(&message.channel) {
                        return ChangeEvent::Changed(id);
                    }
                }
            }
        }
    }
}

#[async_trait::async_trait]
impl Diagnostics for Redis {
    async fn check_writable(&self) -> session_store::Result<()> {
        let key = format!("{}{PROBE}", self.prefix);
        let probed = self.run_on(&self.probe, vec![key], Vec::new());
        probed.await.map(|_| ())
    }

    async fn deploy_warnings(&self) -> session_store::Result<Vec<String>> {
        self.warnings().await
    }
}

impl Redis {
    fn is_clustered(&self) -> bool {
        self.redirects.is_some()
    }

    /// The key of a record, and the channel of its changes.
    fn key(&self, id: &Id) -> String {
        format!("{}{id}", self.prefix)
    }

    /// The session whose record has this key; `None` for other keys of the prefix, or of others.
    fn id(&self, key: &str) -> Option<Id> {
        key.strip_prefix(&self.prefix)?.parse().ok()
    }

    /// Without a prefix the keys are those of tower-sessions' own store, which then does this.
    async fn load_once(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let load = |client: Client| async {
            let client = client;
            if self.prefix.is_empty() {
                return RedisStore::new(client).load(id).await;
            }
            let found: Result<Option<Vec<u8>>, _> = client.get(self.key(id)).await;
            let bytes = found.map_err(backend)?;
            bytes.map(|bytes| decoded(&bytes)).transpose()
        };
        match self.send(&self.reads, load).await {
            Ok(Some(record)) if record.id != *id => {
                // Never another client's session, whatever went wrong on the way.
                self.health.report(Fault::Demoted);
                Err(backend("Redis returned another session's record"))
            }
            Err(error) if is_foreign(&error) => {
                Err(session_store::Error::Decode("no record of ours".to_owned()))
            }
            other => other,
        }
    }

    /// Runs a command on one of these connections, and wherever a Cluster's node redirects it to.
    async fn send<T, F>(&self, pool: &Pool, call: impl Fn(Client) -> F) -> session_store::Result<T>
    where
        F: Future<Output = session_store::Result<T>>,
    {
        let client = pool.client().await.map_err(backend)?;
        let mut result = call(client.clone()).await;
        if is_redirected(&result) {
            // Nothing was done. A client whose key has moved knows by now to which node.
            result = call(client).await;
        }
        if let Some(redirects) = &self.redirects
            && is_redirected(&result)
            && self.replicas == 0
        {
            result = redirects.follow(call).await;
        }
        self.reported(result)
    }

    /// Looks at a result for faults of the connection.
    fn reported<T>(&self, result: session_store::Result<T>) -> session_store::Result<T> {
        if let Err(session_store::Error::Backend(text)) = &result
            && let Some(fault) = Fault::of(text)
        {
            self.health.report(fault);
        }
        result
    }

    /// Runs a script on the record's key, on whichever connection is next.
    async fn run(
        &self,
        script: &Script,
        id: &Id,
        arguments: Vec<Vec<u8>>,
    ) -> session_store::Result<Value> {
        self.run_on(script, vec![self.key(id)], arguments).await
    }

    /// The same on these keys, which one node has.
    async fn run_on(
        &self,
        script: &Script,
        keys: Vec<String>,
        arguments: Vec<Vec<u8>>,
    ) -> session_store::Result<Value> {
        let arguments: Vec<Value> = arguments
            .into_iter()
            .map(|argument| Value::Bytes(argument.into()))
            .collect();
        let run = |client: Client| async {
            let (client, keys) = (client, keys.clone());
            let result = self
                .call(
                    &client,
                    Call::known(script),
                    keys.clone(),
                    arguments.clone(),
                )
                .await;
            match result {
                Err(error) if is_unknown_script(&error) => {
                    self.call(&client, Call::whole(script), keys, arguments.clone())
                        .await
                }
                other => other,
            }
            .map_err(backend)
        };
        self.send(&self.writes, run).await
    }

    /// Calls the script, and waits for the replicas where there are any to wait for.
    async fn call(
        &self,
        client: &Client,
        call: Call,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, Error> {
        let slot = keys.first().map(|key| redis_keyslot(key.as_bytes()));
        if self.replicas == 0 {
            return call.on(client, keys, arguments).await;
        }
        // In one piece on one connection, or WAIT would wait for another connection's writes.
        let pipeline = client.pipeline();
        call.on(&pipeline, keys, arguments).await?;
        let wait = CustomCommand::new_static("WAIT", slot, false);
        let limits = vec![i64::from(self.replicas), REPLICATION_TIMEOUT];
        let _: Value = pipeline.custom(wait, limits).await?;
        let mut results = pipeline.try_all::<Value>().await.into_iter();
        // One result alone is the failure of both.
        let lost = || Error::new(ErrorKind::Protocol, "an answer is missing");
        let written = results.next().ok_or_else(lost)??;
        let replicas: u32 = results.next().ok_or_else(lost)??.convert()?;
        if replicas < self.replicas {
            let text = format!("only {replicas} replicas have the record yet");
            return Err(Error::new(ErrorKind::Unknown, text));
        }
        Ok(written)
    }
}

/// A script by its hash, or whole.
enum Call {
    Hash(Str),
    Text(Str),
}

impl Call {
    /// By its hash, which is enough for a Redis that has seen it before.
    fn known(script: &Script) -> Self {
        Self::Hash(script.sha1().clone())
    }

    fn whole(script: &Script) -> Self {
        Self::Text(script.lua().cloned().unwrap_or_default())
    }

    /// Sends the script with its keys, which one node has: to the server itself or into a pipeline,
    /// which has no other command for it.
    async fn on<C: ClientLike>(
        self,
        client: &C,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, Error> {
        let slot = keys.first().map(|key| redis_keyslot(key.as_bytes()));
        let (name, script) = match self {
            Self::Hash(hash) => ("EVALSHA", hash),
            Self::Text(lua) => ("EVAL", lua),
        };
        let number = i64::try_from(keys.len()).unwrap_or(i64::MAX);
        let mut words = vec![Value::String(script), Value::Integer(number)];
        words.extend(keys.into_iter().map(Value::from));
        words.extend(arguments);
        let command = CustomCommand::new_static(name, slot, false);
        client.custom(command, words).await
    }
}

/// Whether a Redis has not seen the script yet whose hash it was sent.
fn is_unknown_script(error: &Error) -> bool {
    error.details().starts_with("NOSCRIPT")
}

/// Where the server is, and which of its databases holds the sessions.
pub fn describe(config: &Config) -> String {
    let place = match &config.server {
        ServerConfig::Unix { path } => path.display().to_string(),
        server => {
            let hosts = server.hosts().into_iter().map(|host| host.to_string());
            hosts.collect::<Vec<_>>().join(", ")
        }
    };
    match config.database {
        Some(database) if database > 0 => format!("{place}, database {database}"),
        _ => place,
    }
}

/// An error in words for an operator: fred shows the system's errors as Rust does.
pub fn plain(error: &Error) -> String {
    let details = error.details();
    let system = details.split_once("message: \"");
    let message = system.and_then(|(_, rest)| rest.split_once('"'));
    message
        .map_or(details, |(message, _)| message)
        .replace('\n', " ")
}

/// Whether a node of a Cluster has sent a command on to another one, which nobody followed.
fn is_redirected<T>(result: &session_store::Result<T>) -> bool {
    matches!(result, Err(session_store::Error::Backend(text)) if text.starts_with("Routing Error"))
}

/// Whether a command got no response, of which nobody knows more.
fn is_lost(error: &str) -> bool {
    error.starts_with("Timeout Error") || error.starts_with("Canceled")
}

/// Whether there is another kind of value where a record should be, as others may have put it into a
/// shared Redis.
fn is_foreign(error: &session_store::Error) -> bool {
    matches!(error, session_store::Error::Backend(text) if text.contains("WRONGTYPE"))
}

/// What a script says became of a save: 1, or the value that is there instead.
fn swapped(value: Value) -> Swap {
    match value {
        Value::Integer(_) => Swap::Saved,
        Value::Bytes(bytes) => Swap::Conflict(EncodedRecord::decode(bytes.to_vec()).ok()),
        _ => Swap::Conflict(None),
    }
}

/// When Redis shall drop a record, as its commands take it.
fn expires_at(record: &Record) -> Vec<u8> {
    record.expiry_date.unix_timestamp().to_string().into_bytes()
}
