//! Redis and Valkey: for production and for more than one server.

use std::time::Duration;

use fred::{
    error::Error,
    prelude::{Builder, ClientLike, Config, LuaInterface, Pool, ReconnectPolicy},
    types::CustomCommand,
};
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};
use tower_sessions_redis_store::RedisStore;

use super::{Store, backend, encoded};

/// Connections of the pool: commands are pipelined, so a few carry thousands of requests.
const CONNECTIONS: usize = 4;

/// How long a command may take before the request is answered 503.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(3);

/// Replaces KEYS[1]'s value by ARGV[2], to expire at second ARGV[3], if it still is ARGV[1].
const COMPARE_AND_SAVE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
    redis.call('SET', KEYS[1], ARGV[2], 'EXAT', ARGV[3]) return 1 end return 0";

/// Deletes KEYS[1] if its value still is ARGV[1].
const COMPARE_AND_DELETE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
    return redis.call('DEL', KEYS[1]) end return 0";

/// tower-sessions' Redis store, and its pool for the conditional save.
#[derive(Debug)]
pub struct Redis {
    records: RedisStore<Pool>,
    pool: Pool,
}

/// Connects the pool, which from then on reconnects by itself.
///
/// # Errors
/// When the server can't be reached or refuses the connection.
pub async fn open(url: &str) -> Result<Redis, Error> {
    let pool = Builder::from_config(Config::from_url(url)?)
        .with_performance_config(|performance| {
            performance.default_command_timeout = COMMAND_TIMEOUT;
        })
        .with_connection_config(|connection| {
            connection.connection_timeout = COMMAND_TIMEOUT;
            connection.internal_command_timeout = COMMAND_TIMEOUT;
        })
        // Without end, from 50 ms up to a second between two tries.
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 1_000, 2))
        .build_pool(CONNECTIONS)?;
    pool.init().await?;
    Ok(Redis {
        records: RedisStore::new(pool.clone()),
        pool,
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
        self.records.delete(id).await
    }
}

#[async_trait::async_trait]
impl Store for Redis {
    async fn compare_and_save(&self, old: &Record, new: &Record) -> session_store::Result<bool> {
        let arguments = vec![
            encoded(old)?,
            encoded(new)?,
            new.expiry_date.unix_timestamp().to_string().into_bytes(),
        ];
        self.run(COMPARE_AND_SAVE, &old.id, arguments).await
    }

    async fn compare_and_delete(&self, old: &Record) -> session_store::Result<bool> {
        self.run(COMPARE_AND_DELETE, &old.id, vec![encoded(old)?])
            .await
    }

    async fn close(&self) {
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
    /// Runs a script on the record's key, on whichever connection is next.
    async fn run(
        &self,
        script: &str,
        id: &Id,
        arguments: Vec<Vec<u8>>,
    ) -> session_store::Result<bool> {
        self.pool
            .next()
            .eval::<i64, _, _, _>(script, id.to_string(), arguments)
            .await
            .map(|done| done == 1)
            .map_err(backend)
    }
}
