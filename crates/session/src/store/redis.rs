//! A store in Redis or Valkey, for production and for several servers.

mod batch_writer;
mod delivery;
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
use delivery::Delivery;
use pool::{Fault, Health, Pool};
use redirects::Redirects;
use subscriber::{Event, Subscriber};

/// The connections of each pool. Commands are pipelined, so a few connections serve thousands of requests.
const CONNECTIONS: usize = 2;

/// The connections for writes that wait for replicas. A waiting write blocks its connection.
const REPLICATING_CONNECTIONS: usize = 16;

/// How long a command may take before it fails, and the request with status 503.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest save that is batched with others, in bytes of both records. A larger one would delay them.
const MAX_BATCHED_BYTES: usize = 8_192;

/// How long a new connection may take, including its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a save waits for its replicas, in milliseconds. The save blocks its connection for that time.
const REPLICATION_TIMEOUT: i64 = 500;

// The scripts. Each file documents its arguments at the top.
const COMPARE_AND_SWAP: &str = include_str!("redis/lua/compare_and_swap.lua");
const COMPARE_AND_REPLICATE: &str = include_str!("redis/lua/compare_and_replicate.lua");
const CREATE: &str = include_str!("redis/lua/create.lua");
const COMPARE_AND_DELETE: &str = include_str!("redis/lua/compare_and_delete.lua");
const DELETE: &str = include_str!("redis/lua/delete.lua");
const WRITE_PROBE: &str = include_str!("redis/lua/write_probe.lua");

/// The key of [`WRITE_PROBE`], after the prefix.
const PROBE: &str = "probe";

/// A store with the records of tower-sessions' Redis store, and with conditional writes.
#[derive(Debug)]
pub struct Redis {
    reads: Pool,
    writes: Arc<Pool>,
    health: Health,
    /// For the keys of a Cluster that are being moved. Only a Cluster redirects commands.
    redirects: Option<Redirects>,
    /// Batches saves of ordinary size, if one server has all keys and writes don't wait for replicas.
    batch_writer: Option<BatchWriter>,
    subscriber: Subscriber,
    uses_sentinels: bool,
    /// The number of replicas that must have a write before it counts as done.
    replicas: u32,
    /// The beginning of every key and every channel.
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

/// Parses a URL as fred does. For a Unix socket, it also reads the database from the query parameter `db`.
///
/// # Errors
/// When it is not the URL of a Redis server.
pub fn config(url: &str) -> Result<Config, Error> {
    let mut config = Config::from_url(url)?;
    if let ServerConfig::Unix { path } = &mut config.server {
        let parsed = url::Url::parse(url)?;
        let database = parsed.query_pairs().find(|(name, _)| name == "db");
        if let Some((_, database)) = database {
            let invalid = |_| Error::new(ErrorKind::Config, "db is not a number");
            config.database = Some(database.parse().map_err(invalid)?);
        }
        *path = parsed.path().into();
    }
    Ok(config)
}

/// Opens the connections, which reconnect on their own from then on.
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
    let delivery = Delivery::supported(&reads.client().await?).await?;
    let subscriber = Subscriber::connect(builder.clone(), &health, delivery).await?;
    let mut write_builder = builder.clone();
    write_builder.with_connection_config(|connection| {
        // A write whose connection broke must fail instead of being sent again, because it may have been executed.
        connection.max_command_attempts = 1;
    });
    let size = if replicas == 0 {
        CONNECTIONS
    } else {
        REPLICATING_CONNECTIONS
    };
    let writes = Arc::new(Pool::connect(&write_builder, size, &health).await?);
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
        save: delivery.script(if replicas == 0 {
            COMPARE_AND_SWAP
        } else {
            COMPARE_AND_REPLICATE
        }),
        delete_old: delivery.script(COMPARE_AND_DELETE),
        delete: delivery.script(DELETE),
        probe: Script::from_lua(WRITE_PROBE),
        scripts: index::Scripts::default(),
        user_scripts: users::Scripts::default(),
        value_scripts: values::Scripts::default(),
    })
}

/// The settings that all connections share.
fn builder(config: Config) -> Builder {
    let mut builder = Builder::from_config(config);
    builder
        .with_performance_config(|performance| {
            performance.default_command_timeout = COMMAND_TIMEOUT;
        })
        .with_connection_config(|connection| {
            connection.connection_timeout = CONNECT_TIMEOUT;
            connection.internal_command_timeout = CONNECT_TIMEOUT;
            // Each write is a whole command, and a request waits for it.
            connection.tcp.nodelay = Some(true);
            // See redirects.rs. A redirected write would also lack the WAIT for replicas that follows it.
            connection.max_redirections = 0;
        })
        // Retries forever, with waits that are too short for clients to notice.
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
        Err(backend("a record with this id already exists"))
    }

    /// Does not wait for replicas: sessions are only saved by conditional writes.
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
            // The connection has been replaced or is about to be. Another one may get a response.
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
            Some(writer) if size <= MAX_BATCHED_BYTES => {
                self.report_fault(writer.submit(self.key(&old.id), arguments).await)
            }
            _ => self.run(&self.save, &old.id, arguments.to_vec()).await,
        };
        match found {
            Ok(value) => Ok(swapped(value)),
            // The value is not a record. The load that follows reports it.
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
    /// Removes expired sessions from the index. Redis removes expired records on its own.
    async fn delete_expired(&self, limit: u32) -> session_store::Result<u64> {
        self.clear_index(limit).await
    }
}

#[async_trait::async_trait]
impl ChangeFeed for Redis {
    async fn subscribe(&self, id: &Id) -> session_store::Result<()> {
        let subscribed = self.subscriber.subscribe(self.key(id)).await;
        self.report_fault(subscribed.map_err(backend))
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

    /// The key of a record, which is also the channel of its changes.
    fn key(&self, id: &Id) -> String {
        format!("{}{id}", self.prefix)
    }

    /// The session whose record has this key. `None`: the key is not a record's.
    fn id(&self, key: &str) -> Option<Id> {
        key.strip_prefix(&self.prefix)?.parse().ok()
    }

    /// Loads a record, without a retry. Without a prefix, the keys are those of tower-sessions' own store, which then
    /// loads it.
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
                // A client must never get another one's session, whatever has gone wrong on the connection.
                self.health.report(Fault::Demoted);
                Err(backend("Redis returned another session's record"))
            }
            Err(error) if is_foreign(&error) => Err(session_store::Error::Decode(
                "not a session record".to_owned(),
            )),
            other => other,
        }
    }

    /// Runs a command on one of a pool's connections. If a Cluster redirects it, runs it on the other node.
    async fn send<T, F>(&self, pool: &Pool, call: impl Fn(Client) -> F) -> session_store::Result<T>
    where
        F: Future<Output = session_store::Result<T>>,
    {
        let client = pool.client().await.map_err(backend)?;
        let mut result = call(client.clone()).await;
        if is_redirected(&result) {
            self.subscriber.slots_moved();
            // The command was not executed. If the key has moved, the client knows its node by now.
            result = call(client).await;
        }
        if let Some(redirects) = &self.redirects
            && is_redirected(&result)
            && self.replicas == 0
        {
            result = redirects.follow(call).await;
        }
        self.report_fault(result)
    }

    /// Reports a fault of the connection that a result shows.
    fn report_fault<T>(&self, result: session_store::Result<T>) -> session_store::Result<T> {
        if let Err(session_store::Error::Backend(text)) = &result
            && let Some(fault) = Fault::of(text)
        {
            self.health.report(fault);
        }
        result
    }

    /// Runs a script on the key of a record.
    async fn run(
        &self,
        script: &Script,
        id: &Id,
        arguments: Vec<Vec<u8>>,
    ) -> session_store::Result<Value> {
        self.run_on(script, vec![self.key(id)], arguments).await
    }

    /// Runs a script on keys that are on the same node.
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
                    Call::by_hash(script),
                    keys.clone(),
                    arguments.clone(),
                )
                .await;
            match result {
                Err(error) if is_unknown_script(&error) => {
                    self.call(&client, Call::by_text(script), keys, arguments.clone())
                        .await
                }
                other => other,
            }
            .map_err(backend)
        };
        self.send(&self.writes, run).await
    }

    /// Calls a script, and waits for the replicas that must have the write.
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
        // A pipeline, because WAIT only waits for writes of its own connection.
        let pipeline = client.pipeline();
        call.on(&pipeline, keys, arguments).await?;
        let wait = CustomCommand::new_static("WAIT", slot, false);
        let limits = vec![i64::from(self.replicas), REPLICATION_TIMEOUT];
        let _: Value = pipeline.custom(wait, limits).await?;
        let mut results = pipeline.try_all::<Value>().await.into_iter();
        // If the pipeline fails as a whole, there is only one result.
        let missing = || Error::new(ErrorKind::Protocol, "a response is missing");
        let written = results.next().ok_or_else(missing)??;
        let replicas: u32 = results.next().ok_or_else(missing)??.convert()?;
        if replicas < self.replicas {
            let text = format!("only {replicas} replicas have the record yet");
            return Err(Error::new(ErrorKind::Unknown, text));
        }
        Ok(written)
    }
}

/// A call of a script by its hash or by its text.
enum Call {
    Hash(Str),
    Text(Str),
}

impl Call {
    /// A call by hash, for a server that already has the script.
    fn by_hash(script: &Script) -> Self {
        Self::Hash(script.sha1().clone())
    }

    fn by_text(script: &Script) -> Self {
        Self::Text(script.lua().cloned().unwrap_or_default())
    }

    /// Sends the call to a client or a pipeline. All keys must be on the same node.
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
        let mut command_arguments = vec![Value::String(script), Value::Integer(number)];
        command_arguments.extend(keys.into_iter().map(Value::from));
        command_arguments.extend(arguments);
        let command = CustomCommand::new_static(name, slot, false);
        client.custom(command, command_arguments).await
    }
}

/// Whether the server does not have the script that was called by its hash.
fn is_unknown_script(error: &Error) -> bool {
    error.details().starts_with("NOSCRIPT")
}

/// The server's address and database, without the password.
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

/// The message of an error, for an operator. fred shows errors of the operating system in their `Debug` form.
pub fn plain(error: &Error) -> String {
    let details = error.details();
    let system = details.split_once("message: \"");
    let message = system.and_then(|(_, rest)| rest.split_once('"'));
    message
        .map_or(details, |(message, _)| message)
        .replace('\n', " ")
}

/// Whether a node of a Cluster has redirected a command.
fn is_redirected<T>(result: &session_store::Result<T>) -> bool {
    matches!(result, Err(session_store::Error::Backend(text)) if text.starts_with("Routing Error"))
}

/// Whether a command got no response.
fn is_lost(error: &str) -> bool {
    error.starts_with("Timeout Error") || error.starts_with("Canceled")
}

/// Whether the key of a record holds a value of another type, which another application of a shared Redis may have
/// written.
fn is_foreign(error: &session_store::Error) -> bool {
    matches!(error, session_store::Error::Backend(text) if text.contains("WRONGTYPE"))
}

/// The result of a save from a script's response: 1, or the value that is stored instead.
fn swapped(value: Value) -> Swap {
    match value {
        Value::Integer(_) => Swap::Saved,
        Value::Bytes(bytes) => Swap::Conflict(EncodedRecord::decode(bytes.to_vec()).ok()),
        _ => Swap::Conflict(None),
    }
}

/// The expiry of a record as Redis commands take it.
fn expires_at(record: &Record) -> Vec<u8> {
    record.expiry_date.unix_timestamp().to_string().into_bytes()
}
