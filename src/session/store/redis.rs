//! Redis and Valkey: for production and for more than one server.

use std::time::Duration;

use fred::{
    clients::SubscriberClient,
    error::Error,
    interfaces::PubsubInterface,
    prelude::{Builder, ClientLike, Config, EventInterface, LuaInterface, Pool, ReconnectPolicy},
    types::{CustomCommand, Message, Value, config::Server, scripts::Script},
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

use super::{Heard, Saved, Store, backend, decoded, encoded};

/// Connections of the pool: commands are pipelined, so a few carry thousands of requests.
const CONNECTIONS: usize = 2;

/// How long a command may take before the request is answered 503.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(3);

/// Replaces KEYS[1]'s value by ARGV[2], to expire at second ARGV[3], if it still is ARGV[1], and
/// tells the servers that follow it. Returns the value where it is another one.
const COMPARE_AND_SAVE: &str = "local now = redis.call('GET', KEYS[1]) \
    if now == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'EXAT', ARGV[3]) \
    redis.call('PUBLISH', 'tally:' .. KEYS[1], '') return 1 end return now";

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

/// tower-sessions' Redis store, and its pool for the conditional save.
#[derive(Debug)]
pub struct Redis {
    records: RedisStore<Pool>,
    pool: Pool,
    /// A connection of its own that hears of changes.
    subscriber: SubscriberClient,
    messages: Mutex<Receiver<Message>>,
    reconnections: Mutex<Receiver<Server>>,
    save: Script,
    delete_old: Script,
    delete: Script,
}

/// Connects the pool, which from then on reconnects by itself.
///
/// # Errors
/// When the server can't be reached or refuses the connection.
pub async fn open(url: &str) -> Result<Redis, Error> {
    let mut builder = Builder::from_config(Config::from_url(url)?);
    builder
        .with_performance_config(|performance| {
            performance.default_command_timeout = COMMAND_TIMEOUT;
        })
        .with_connection_config(|connection| {
            connection.connection_timeout = COMMAND_TIMEOUT;
            connection.internal_command_timeout = COMMAND_TIMEOUT;
        })
        // Without end, from 50 ms up to a second between two tries.
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 1_000, 2));
    let pool = builder.build_pool(CONNECTIONS)?;
    pool.init().await?;
    builder.with_performance_config(|performance| {
        performance.broadcast_channel_capacity = WAITING_CHANGES;
    });
    let subscriber = builder.build_subscriber_client()?;
    subscriber.init().await?;
    Ok(Redis {
        records: RedisStore::new(pool.clone()),
        pool,
        messages: Mutex::new(subscriber.message_rx()),
        reconnections: Mutex::new(subscriber.reconnect_rx()),
        subscriber,
        save: Script::from_lua(COMPARE_AND_SAVE),
        delete_old: Script::from_lua(COMPARE_AND_DELETE),
        delete: Script::from_lua(DELETE),
    })
}

#[async_trait::async_trait]
impl SessionStore for Redis {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        self.records.create(record).await
    }

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
    async fn compare_and_save(&self, old: &Record, new: &Record) -> session_store::Result<Saved> {
        let arguments = vec![
            encoded(old)?,
            encoded(new)?,
            new.expiry_date.unix_timestamp().to_string().into_bytes(),
        ];
        match self.run(&self.save, &old.id, arguments).await? {
            Value::Integer(_) => Ok(Saved::Yes),
            Value::Bytes(bytes) => Ok(Saved::No(decoded(&bytes).ok())),
            _ => Ok(Saved::No(None)),
        }
    }

    async fn compare_and_delete(&self, old: &Record) -> session_store::Result<bool> {
        let deleted = self.run(&self.delete_old, &old.id, vec![encoded(old)?]);
        Ok(deleted.await? == Value::Integer(1))
    }

    fn tells(&self) -> bool {
        true
    }

    async fn follow(&self, id: &Id) -> session_store::Result<()> {
        let channel = format!("{CHANNEL}{id}");
        self.subscriber.subscribe(channel).await.map_err(backend)
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
                    if self.subscriber.subscribe(CHANNEL).await.is_err() {
                        let _ = self.subscriber.force_reconnection().await;
                    }
                }
            }
        }
    }

    async fn close(&self) {
        let _ = self.subscriber.quit().await;
        if let Err(error) = self.pool.quit().await {
            tracing::debug!(%error, "Redis was already gone");
        }
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
        Ok((!saves).then(|| {
            "Redis has no append-only file (appendonly no), so a crash loses the last sessions; \
             set appendonly yes"
                .to_owned()
        }))
    }
}

impl Redis {
    /// A new connection follows nothing.
    async fn follow_again(&self) -> bool {
        let channels: Vec<_> = self.subscriber.tracked_channels().into_iter().collect();
        let followed = channels.is_empty() || self.subscriber.subscribe(channels).await.is_ok();
        if !followed {
            let _ = self.subscriber.force_reconnection().await;
        }
        followed
    }

    /// Runs a script on the record's key, on whichever connection is next. Its hash is enough for
    /// a Redis that has seen it before.
    async fn run(
        &self,
        script: &Script,
        id: &Id,
        arguments: Vec<Vec<u8>>,
    ) -> session_store::Result<Value> {
        let client = self.pool.next();
        let arguments: Vec<Value> = arguments
            .into_iter()
            .map(|argument| Value::Bytes(argument.into()))
            .collect();
        let hash = script.sha1();
        let known = client.evalsha(hash.clone(), id.to_string(), arguments.clone());
        match known.await {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                let lua = script.lua().map(|lua| lua.to_string());
                let lua = lua.unwrap_or_default();
                client.eval(lua, id.to_string(), arguments).await
            }
            other => other,
        }
        .map_err(backend)
    }
}

/// The session whose change a message tells of.
fn followed(message: &Message) -> Option<Id> {
    message.channel.strip_prefix(CHANNEL)?.parse().ok()
}
