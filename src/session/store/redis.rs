//! Redis and Valkey: for production and for more than one server.

mod carrier;
mod census;

use std::time::Duration;

use fred::{
    bytes_utils::Str,
    clients::{Client, SubscriberClient},
    error::{Error, ErrorKind},
    interfaces::PubsubInterface,
    prelude::{Builder, ClientLike, Config, EventInterface, Pool, ReconnectPolicy},
    types::{CustomCommand, Message, MultipleStrings, Value, config::Server, scripts::Script},
    util::redis_keyslot,
};
use tokio::sync::{
    Mutex,
    broadcast::{Receiver, error::RecvError},
};
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};
use tower_sessions_redis_store::RedisStore;

use super::{
    Heard, Kept, Saved, Store, backend,
    census::{Census, Ledger},
    encoded,
};
use carrier::Carrier;

/// Connections of each pool: commands are pipelined, so a few carry thousands of requests.
const CONNECTIONS: usize = 2;

/// Connections for writes that wait for replicas: each waits with its connection.
const WAITING_CONNECTIONS: usize = 16;

/// How long a command may take before the request is answered 503.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest save that goes together with others, in bytes of both records: a larger one would
/// hold them up.
const LARGEST_CARRIED: usize = 8_192;

/// How long a new connection may take to be made and greeted.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a save waits for its replicas, in milliseconds: the connection waits with it.
const REPLICATION_TIMEOUT: i64 = 500;

/// Replaces KEYS[1]'s value by ARGV[2], to expire at second ARGV[3], if it still is ARGV[1], and
/// tells the servers that follow it. Returns the value where it is another one.
const COMPARE_AND_SAVE: &str = "local now = redis.call('GET', KEYS[1]) \
    if now == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'EXAT', ARGV[3]) \
    redis.call('PUBLISH', 'tally:' .. KEYS[1], '') return 1 end return now";

/// The same where replicas are waited for. The other value may hold an earlier try of this very save
/// that no replica had yet; writing it once more makes the wait that follows cover it.
const COMPARE_AND_REPLICATE: &str = "local now = redis.call('GET', KEYS[1]) \
    if now == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'EXAT', ARGV[3]) \
    redis.call('PUBLISH', 'tally:' .. KEYS[1], '') return 1 end \
    if now then redis.call('SET', KEYS[1], now, 'KEEPTTL') end return now";

/// Makes KEYS[1] with the value ARGV[1], to expire at second ARGV[2], where there is none yet. After a
/// command that was sent twice it is there, and the same.
const CREATE: &str = "if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EXAT', ARGV[2]) \
    or redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end return 0";

/// Deletes KEYS[1] if its value still is ARGV[1], and tells the servers that follow it.
const COMPARE_AND_DELETE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
    redis.call('DEL', KEYS[1]) redis.call('PUBLISH', 'tally:' .. KEYS[1], '') return 1 end return 0";

/// Deletes KEYS[1], and tells the servers that follow it.
const DELETE: &str =
    "redis.call('PUBLISH', 'tally:' .. KEYS[1], '') return redis.call('DEL', KEYS[1])";

/// Before a followed session's id in the name of its channel, as in the scripts above.
const CHANNEL: &str = "tally:";

/// After so much silence the connection that hears of changes is tried.
const SILENCE: Duration = Duration::from_secs(10);

/// Changes that wait to be heard; more than that are heard as "any of them may have changed".
const WAITING_CHANGES: usize = 1_024;

/// tower-sessions' Redis store, and a pool of its own for what is written on a condition.
#[derive(Debug)]
pub struct Redis {
    records: RedisStore<Pool>,
    pool: Pool,
    writes: Pool,
    /// Takes the saves of ordinary size, where one server has all keys and no replica is waited for.
    carrier: Option<Carrier>,
    /// A connection of its own that hears of changes.
    subscriber: SubscriberClient,
    messages: Mutex<Receiver<Message>>,
    reconnections: Mutex<Receiver<Server>>,
    /// So many replicas must have what is written before it counts as written.
    replicas: u32,
    create: Script,
    save: Script,
    delete_old: Script,
    delete: Script,
    scripts: census::Scripts,
}

/// Connects the pool, which from then on reconnects by itself.
///
/// # Errors
/// When the server can't be reached or refuses the connection.
pub async fn open(url: &str, replicas: u32) -> Result<Redis, Error> {
    let mut builder = Builder::from_config(Config::from_url(url)?);
    builder
        .with_performance_config(|performance| {
            performance.default_command_timeout = COMMAND_TIMEOUT;
        })
        .with_connection_config(|connection| {
            connection.connection_timeout = CONNECT_TIMEOUT;
            connection.internal_command_timeout = CONNECT_TIMEOUT;
            // What is written is a whole command, and somebody waits for it.
            connection.tcp.nodelay = Some(true);
        })
        // Without end, and never so long between two tries that visitors would notice.
        .set_policy(ReconnectPolicy::new_exponential(0, 20, 250, 2));
    let pool = builder.build_pool(CONNECTIONS)?;
    pool.init().await?;
    let subscriber = subscriber(builder.clone())?;
    subscriber.init().await?;
    builder.with_connection_config(|connection| {
        // Whoever waits for a write must hear that its connection broke: it may have been done.
        connection.max_command_attempts = 1;
        if replicas > 0 {
            // What a redirection sends to another node goes there without the wait behind it.
            connection.max_redirections = 0;
        }
    });
    let writes = builder.build_pool(if replicas == 0 {
        CONNECTIONS
    } else {
        WAITING_CONNECTIONS
    })?;
    writes.init().await?;
    Ok(Redis {
        records: RedisStore::new(pool.clone()),
        carrier: if replicas == 0 && !writes.is_clustered() {
            Some(Carrier::start(&writes).await?)
        } else {
            None
        },
        pool,
        writes,
        messages: Mutex::new(subscriber.message_rx()),
        reconnections: Mutex::new(subscriber.reconnect_rx()),
        subscriber,
        replicas,
        create: Script::from_lua(CREATE),
        save: Script::from_lua(if replicas == 0 {
            COMPARE_AND_SAVE
        } else {
            COMPARE_AND_REPLICATE
        }),
        delete_old: Script::from_lua(COMPARE_AND_DELETE),
        delete: Script::from_lua(DELETE),
        scripts: census::Scripts::default(),
    })
}

fn subscriber(mut builder: Builder) -> Result<SubscriberClient, Error> {
    builder.with_performance_config(|performance| {
        performance.broadcast_channel_capacity = WAITING_CHANGES;
    });
    builder.build_subscriber_client()
}

#[async_trait::async_trait]
impl SessionStore for Redis {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let arguments = vec![encoded(record)?, expires_at(record)];
        let created = self.run(&self.create, &record.id, arguments).await?;
        if created == Value::Integer(1) {
            return Ok(());
        }
        // The store's own way draws another id.
        self.records.create(record).await
    }

    /// Waits for no replica; the sessions save on a condition alone.
    async fn save(&self, record: &Record) -> session_store::Result<()> {
        self.records.save(record).await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        self.records.load(id).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.run(&self.delete, id, Vec::new()).await.map(|_| ())
    }
}

#[async_trait::async_trait]
impl Store for Redis {
    async fn compare_and_save(&self, old: &Kept, new: &Kept) -> session_store::Result<Saved> {
        let size = old.bytes()?.len() + new.bytes()?.len();
        if let Some(carrier) = &self.carrier
            && size <= LARGEST_CARRIED
        {
            return carrier.save(old, new).await;
        }
        let arguments = vec![
            old.bytes()?.to_vec(),
            new.bytes()?.to_vec(),
            expires_at(new),
        ];
        self.run(&self.save, &old.id, arguments).await.map(found)
    }

    async fn compare_and_delete(&self, old: &Kept) -> session_store::Result<bool> {
        let deleted = self.run(&self.delete_old, &old.id, vec![old.bytes()?.to_vec()]);
        Ok(deleted.await? == Value::Integer(1))
    }

    /// Redis drops what has expired by itself; the lists that the console is shown need a hand.
    async fn clear_expired(&self, limit: u32) -> session_store::Result<u64> {
        self.clear_lists(limit).await
    }

    fn census(&self) -> Option<&dyn Census> {
        Some(self)
    }

    fn ledger(&self) -> Option<&dyn Ledger> {
        Some(self)
    }

    fn tells(&self) -> bool {
        true
    }

    async fn follow(&self, id: &Id) -> session_store::Result<()> {
        let channel = format!("{CHANNEL}{id}");
        self.subscribe(channel).await.map_err(backend)
    }

    async fn leave(&self, id: &Id) -> session_store::Result<()> {
        let channel = format!("{CHANNEL}{id}");
        self.subscriber.unsubscribe(channel).await.map_err(backend)
    }

    async fn heard(&self) -> Heard {
        let (mut messages, mut reconnections) =
            tokio::join!(self.messages.lock(), self.reconnections.lock());
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Ok(message) => {
                        if let Some(id) = followed(&message) {
                            return Heard::Change(id);
                        }
                    }
                    Err(RecvError::Lagged(_)) => return Heard::Missed,
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                reconnected = reconnections.recv() => {
                    if reconnected.is_ok() && self.follow_again().await {
                        return Heard::Missed;
                    }
                }
                () = tokio::time::sleep(SILENCE) => {
                    // A connection may die without a word, and nothing is ever sent on this one.
                    if self.answered().await.is_err() {
                        let _ = self.subscriber.force_reconnection().await;
                    }
                }
            }
        }
    }

    async fn close(&self) {
        let closed = tokio::join!(self.subscriber.quit(), self.writes.quit(), self.pool.quit());
        tracing::debug!(?closed, "the connections to Redis are closed");
    }

    async fn weakness(&self) -> session_store::Result<Option<String>> {
        let info: String = self
            .pool
            .custom(
                CustomCommand::new_static("INFO", None, false),
                vec!["persistence"],
            )
            .await
            .map_err(backend)?;
        let saves = info.lines().any(|line| line.trim() == "aof_enabled:1");
        if !saves {
            return Ok(Some(
                "Redis has no append-only file (appendonly no), so a crash loses the last \
                 sessions; set appendonly yes"
                    .to_owned(),
            ));
        }
        let fails_over = self.pool.is_clustered() || self.pool.uses_sentinels();
        Ok((fails_over && self.replicas == 0).then(|| {
            "a replica that takes over may lack the last sessions: set sessions.store_replicas to 1"
                .to_owned()
        }))
    }
}

impl Redis {
    /// A new connection follows nothing.
    async fn follow_again(&self) -> bool {
        let channels: Vec<_> = self.subscriber.tracked_channels().into_iter().collect();
        let followed = channels.is_empty() || self.subscribe(channels).await.is_ok();
        if !followed {
            let _ = self.subscriber.force_reconnection().await;
        }
        followed
    }

    /// Hears of these channels from now on. The client waits for no answer to a subscription, so that
    /// a change might come before it.
    async fn subscribe(&self, channels: impl Into<MultipleStrings> + Send) -> Result<(), Error> {
        self.subscriber.subscribe(channels).await?;
        self.answered().await
    }

    /// Waits until Redis has done what it was asked for on the connection that hears of changes. In a
    /// Cluster the client chooses that server by its own name.
    async fn answered(&self) -> Result<(), Error> {
        let slot = redis_keyslot(self.subscriber.id().as_bytes());
        let ping = CustomCommand::new_static("PING", slot, false);
        let _: Value = self.subscriber.custom(ping, Vec::<Value>::new()).await?;
        Ok(())
    }

    /// Runs a script on the record's key, on whichever connection is next.
    async fn run(
        &self,
        script: &Script,
        id: &Id,
        arguments: Vec<Vec<u8>>,
    ) -> session_store::Result<Value> {
        let client = self.writes.next();
        let arguments: Vec<Value> = arguments
            .into_iter()
            .map(|argument| Value::Bytes(argument.into()))
            .collect();
        let known = || Call::known(script);
        let result = match self.call(client, known(), id, arguments.clone()).await {
            Err(error) if is_unknown_script(&error) => {
                self.call(client, Call::whole(script), id, arguments).await
            }
            // The key has moved to another node, whom the client knows by now; nothing was done.
            Err(error) if *error.kind() == ErrorKind::Routing => {
                self.call(client, known(), id, arguments).await
            }
            other => other,
        };
        result.map_err(backend)
    }

    /// Calls the script, and waits for the replicas where there are any to wait for.
    async fn call(
        &self,
        client: &Client,
        call: Call,
        id: &Id,
        arguments: Vec<Value>,
    ) -> Result<Value, Error> {
        if self.replicas == 0 {
            return call.on(client, vec![id.to_string()], arguments).await;
        }
        // In one piece on one connection, or WAIT would wait for another connection's writes.
        let pipeline = client.pipeline();
        call.on(&pipeline, vec![id.to_string()], arguments).await?;
        let slot = redis_keyslot(id.to_string().as_bytes());
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

/// What a script says became of a save: 1, or the value that is there instead.
fn found(value: Value) -> Saved {
    match value {
        Value::Integer(_) => Saved::Yes,
        Value::Bytes(bytes) => Saved::No(Kept::of(bytes.to_vec()).ok()),
        _ => Saved::No(None),
    }
}

/// When Redis shall drop a record, as its commands take it.
fn expires_at(record: &Record) -> Vec<u8> {
    record.expiry_date.unix_timestamp().to_string().into_bytes()
}

/// The session whose change a message tells of.
fn followed(message: &Message) -> Option<Id> {
    message.channel.strip_prefix(CHANNEL)?.parse().ok()
}
