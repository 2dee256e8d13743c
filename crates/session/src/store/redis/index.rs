//! The index of sessions and the statistics in Redis.
//!
//! The index holds the sessions by expiry, and again by short id. The statistics hold counts by minute, hour and day,
//! and the different sessions of each hour and day (HyperLogLog: up to 12 KiB each, accurate to about 1 %). The cost
//! of a command does not grow with the number of sessions.

mod scan;

use fred::{
    interfaces::ClientLike,
    prelude::Client,
    types::{CustomCommand, FromValue, Value, scripts::Script},
    util::redis_keyslot,
};
use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{Call, Redis, backend, is_unknown_script, pool::Pool};
use crate::{
    stats::EXPIRY_TOLERANCE,
    store::index::{
        Bucket, Counts, History, Resolution, SessionIndex, SessionScan, StatsBatch, StatsStore,
    },
};

/// Follows the prefix in the keys of the index and the statistics. The braces are a hash tag, which keeps all these
/// keys on one node of a Cluster.
const CONSOLE: &str = "{console}:";

/// The sessions by expiry, in seconds since 1970.
const SESSIONS: &str = "sessions";

/// The sessions in the order of their ids, which begin with the short ids.
const SHORT_IDS: &str = "labels";

/// Names the last batch that a server has recorded, before the server's number.
const LAST_BATCH: &str = "noted:";

/// How long the last batch of a server is kept, in seconds.
const LAST_BATCH_AGE: i64 = 3_600;

/// Names the counts of a bucket, before the resolution and the bucket's number.
const COUNTS: &str = "counts:";

/// Names the different sessions of a bucket, before the resolution and the bucket's number.
const ACTIVE: &str = "active:";

/// The key on which the rights check tries its commands.
const RIGHTS_PROBE: &str = "rights";

/// The lock of the server that backfills the index.
const BACKFILL_LOCK: &str = "completing";

/// How long the lock is held at most, in seconds.
const BACKFILL_LOCK_AGE: i64 = 60;

/// Exists once the index has been backfilled, for a day: servers without a console may have omitted sessions since. A
/// server that starts backfills the index in any case, because it may have been killed before.
const COMPLETED: &str = "completed";

/// How long a backfill is valid, in seconds.
const COMPLETED_AGE: i64 = 86_400;

/// The most sessions in one command. It bounds how long other commands wait for Redis.
const CHUNK_SIZE: usize = 100;

/// How many seconds after their expiry sessions are removed from the index. The index knows expiries only within a
/// tolerance.
const CLEAR_DELAY: i64 = 2 * EXPIRY_TOLERANCE;

/// How many buckets are kept beyond those that are shown.
const EXTRA_BUCKETS: i64 = 2;

/// Includes a script that adds sessions to the index.
macro_rules! index_script {
    ($file:literal) => {
        concat!(include_str!("lua/add_to_index.lua"), include_str!($file))
    };
}

/// The scripts. Each file documents its arguments at the top.
#[derive(Debug)]
pub struct Scripts {
    record: Script,
    backfill: Script,
    remove: Script,
    clear: Script,
    history: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            record: Script::from_lua(index_script!("lua/record.lua")),
            backfill: Script::from_lua(index_script!("lua/backfill.lua")),
            remove: Script::from_lua(include_str!("lua/remove_from_index.lua")),
            clear: Script::from_lua(include_str!("lua/clear_index.lua")),
            history: Script::from_lua(include_str!("lua/history.lua")),
        }
    }
}

impl Redis {
    /// Runs a script of the index or the statistics.
    ///
    /// It uses the connections for writes, so that reads of requests don't wait behind it. While a replica takes over,
    /// Redis may block a connection that writes, and every script may write.
    async fn run_index_script(
        &self,
        script: &Script,
        keys: Vec<String>,
        arguments: Vec<String>,
    ) -> session_store::Result<Value> {
        let arguments: Vec<Value> = arguments.into_iter().map(Value::from).collect();
        let run = |client: Client| async {
            let client = client;
            let by_hash = Call::by_hash(script);
            match by_hash.on(&client, keys.clone(), arguments.clone()).await {
                Err(error) if is_unknown_script(&error) => {
                    let by_text = Call::by_text(script);
                    by_text.on(&client, keys.clone(), arguments.clone()).await
                }
                other => other,
            }
            .map_err(backend)
        };
        self.send(&self.writes, run).await
    }

    /// The key of a name in the index or the statistics.
    pub(super) fn console_key(&self, name: &str) -> String {
        format!("{}{CONSOLE}{name}", self.prefix)
    }

    /// The keys of the index: the sessions by expiry and by short id.
    fn index_keys(&self) -> Vec<String> {
        vec![self.console_key(SESSIONS), self.console_key(SHORT_IDS)]
    }

    /// Runs a command that reads a key of the index or the statistics.
    pub(super) async fn read<T: FromValue>(
        &self,
        command: &'static str,
        name: &str,
        args: Vec<Value>,
    ) -> session_store::Result<T> {
        self.command(&self.reads, command, self.console_key(name), args)
            .await
    }

    /// Runs a command that writes a key of the index or the statistics.
    async fn write<T: FromValue>(
        &self,
        command: &'static str,
        name: &str,
        args: Vec<Value>,
    ) -> session_store::Result<T> {
        self.command(&self.writes, command, self.console_key(name), args)
            .await
    }

    /// Runs a command on a key, which selects the node in a Cluster.
    pub(super) async fn command<T: FromValue>(
        &self,
        pool: &Pool,
        name: &'static str,
        key: String,
        args: Vec<Value>,
    ) -> session_store::Result<T> {
        let slot = redis_keyslot(key.as_bytes());
        let args = [vec![Value::from(key)], args].concat();
        let send = |client: Client| async {
            let (client, args) = (client, args.clone());
            let command = CustomCommand::new_static(name, slot, false);
            client.custom::<T, _>(command, args).await.map_err(backend)
        };
        self.send(pool, send).await
    }

    /// Loads the records of sessions from the index. Removes sessions without a record from the index.
    async fn records_of(&self, names: Vec<String>) -> session_store::Result<Vec<Record>> {
        let ids: Vec<Id> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let loaded = join_all(ids.iter().map(|id| self.load(id))).await;
        let (mut records, mut missing) = (Vec::new(), Vec::new());
        for (id, record) in ids.iter().zip(loaded) {
            match record {
                Ok(Some(record)) => records.push(record),
                Ok(None) => missing.push(id.to_string()),
                // A record that can't be decoded must not hide the others.
                Err(session_store::Error::Decode(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if !missing.is_empty() {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            self.remove_from_index(now, missing).await?;
        }
        Ok(records)
    }

    /// Uses each right that the console needs, on a key of its own.
    pub(super) async fn check_console_rights(&self) -> session_store::Result<()> {
        let member =
            |command| self.write::<i64>(command, RIGHTS_PROBE, vec![0.into(), "probe".into()]);
        member("ZADD").await?;
        self.write::<i64>("DEL", RIGHTS_PROBE, Vec::new()).await?;
        self.write::<i64>("HINCRBY", RIGHTS_PROBE, vec!["probe".into(), 1.into()])
            .await?;
        self.write::<i64>("DEL", RIGHTS_PROBE, Vec::new()).await?;
        self.write::<i64>("PFADD", RIGHTS_PROBE, vec!["probe".into()])
            .await?;
        self.read::<i64>("PFCOUNT", RIGHTS_PROBE, Vec::new())
            .await?;
        self.write::<i64>("DEL", RIGHTS_PROBE, Vec::new()).await?;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        self.count().await?;
        self.page(0, 1).await?;
        self.search("0", 1).await?;
        self.history(now, &[]).await?;
        self.clear_index(1).await?;
        self.check_user_rights().await?;
        self.check_value_rights().await?;
        self.begin_scan().await?.next().await.map(|_| ())
    }

    /// The keys of `record.lua`.
    fn batch_keys(&self, batch: &StatsBatch) -> Vec<String> {
        let key = |prefix, resolution: Resolution| {
            self.console_key(&name(prefix, resolution, resolution.number(batch.now)))
        };
        let counts = Resolution::ALL.map(|resolution| key(COUNTS, resolution));
        let sessions =
            [Resolution::Hour, Resolution::Day].map(|resolution| key(ACTIVE, resolution));
        let last_batch = vec![self.console_key(&format!("{LAST_BATCH}{:x}", batch.server))];
        [
            self.index_keys(),
            counts.to_vec(),
            sessions.to_vec(),
            last_batch,
        ]
        .concat()
    }

    /// Removes sessions from the index, unless they expired before a time (in seconds since 1970).
    async fn remove_from_index(
        &self,
        before: i64,
        names: Vec<String>,
    ) -> session_store::Result<()> {
        let args = [vec![before.to_string()], names].concat();
        self.run_index_script(&self.scripts.remove, self.index_keys(), args)
            .await?;
        Ok(())
    }

    /// Removes expired sessions from the index, and returns how many it removed. Sessions stay whose lifetime was
    /// extended by servers without a console.
    pub(super) async fn clear_index(&self, limit: u32) -> session_store::Result<u64> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let until = (now - CLEAR_DELAY).to_string();
        let mut cleared = 0;
        while cleared < u64::from(limit) {
            let args = ["-inf", &until, "LIMIT", "0"].map(Value::from);
            let limit = i64::try_from(CHUNK_SIZE).unwrap_or(i64::MAX);
            let args = [args.to_vec(), vec![Value::from(limit)]].concat();
            let names: Vec<String> = self.read("ZRANGEBYSCORE", SESSIONS, args).await?;
            if names.is_empty() {
                break;
            }
            let mut arguments = vec![until.clone()];
            let left = join_all(names.iter().map(|name| self.seconds_left(name)));
            for (name, left) in names.iter().zip(left.await) {
                let expires_at = left?.map_or(0, |left| now + left);
                arguments.extend([name.clone(), expires_at.to_string()]);
            }
            let removed = self
                .run_index_script(&self.scripts.clear, self.index_keys(), arguments)
                .await?;
            cleared += removed.convert::<u64>().map_err(backend)?;
            if names.len() < CHUNK_SIZE {
                break;
            }
        }
        Ok(cleared)
    }

    /// The remaining lifetime of a record in seconds. `None`: it is gone.
    async fn seconds_left(&self, name: &str) -> session_store::Result<Option<i64>> {
        let key = format!("{}{name}", self.prefix);
        let left: i64 = self.command(&self.reads, "TTL", key, Vec::new()).await?;
        Ok((left >= 0).then_some(left))
    }
}

#[async_trait::async_trait]
impl SessionIndex for Redis {
    async fn count(&self) -> session_store::Result<u64> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let args = vec![now.into(), "+inf".into()];
        self.read("ZCOUNT", SESSIONS, args).await
    }

    async fn page(&self, skip: u64, take: u32) -> session_store::Result<Vec<Record>> {
        let last = skip.saturating_add(u64::from(take)).saturating_sub(1);
        let args = vec![skip.to_string().into(), last.to_string().into()];
        let names = self.read("ZREVRANGE", SESSIONS, args).await?;
        self.records_of(names).await
    }

    async fn search(&self, beginning: &str, take: u32) -> session_store::Result<Vec<Record>> {
        let args = vec![
            format!("[{beginning}").into(),
            // `~` comes after every character of an id.
            format!("({beginning}~").into(),
            "LIMIT".into(),
            0.into(),
            i64::from(take).into(),
        ];
        let names = self.read("ZRANGEBYLEX", SHORT_IDS, args).await?;
        self.records_of(names).await
    }

    /// Scans all keys instead of the index, so that it misses no session.
    async fn scan(&self) -> session_store::Result<Box<dyn SessionScan + '_>> {
        Ok(Box::new(self.begin_scan().await?))
    }
}

#[async_trait::async_trait]
impl StatsStore for Redis {
    async fn record(&self, batch: &StatsBatch) -> session_store::Result<()> {
        // Deletions come last, so that no session is added to the index after its deletion.
        let seen = batch
            .seen
            .chunks(CHUNK_SIZE)
            .map(|seen| (seen, [].as_slice()));
        let gone = batch
            .gone
            .chunks(CHUNK_SIZE)
            .map(|gone| ([].as_slice(), gone));
        let mut parts: Vec<(&[(Id, i64)], &[Id])> = seen.chain(gone).collect();
        if parts.is_empty() {
            parts.push((&[], &[]));
        }
        let one_server = !self.is_clustered();
        // The counts go with the first command only.
        let mut counts = counts_by_name(batch);
        for (seen, gone) in parts {
            let place = [self.prefix.clone(), u8::from(one_server).to_string()];
            let counted = std::mem::take(&mut counts);
            let arguments = arguments(batch.number, place, counted, seen, gone);
            self.run_index_script(&self.scripts.record, self.batch_keys(batch), arguments)
                .await?;
        }
        Ok(())
    }

    async fn history(&self, now: i64, counters: &[&'static str]) -> session_store::Result<History> {
        let numbers = |resolution: Resolution| {
            resolution
                .numbers(now)
                .map(move |number| (resolution, number))
        };
        let counted: Vec<_> = Resolution::ALL.into_iter().flat_map(numbers).collect();
        let different: Vec<_> = [Resolution::Hour, Resolution::Day]
            .into_iter()
            .flat_map(numbers)
            .collect();
        let names = |prefix: &'static str, resolutions: &[(Resolution, i64)]| {
            let name = |(resolution, number): &(Resolution, i64)| {
                self.console_key(&name(prefix, *resolution, *number))
            };
            resolutions.iter().map(name).collect::<Vec<_>>()
        };
        let keys = [names(COUNTS, &counted), names(ACTIVE, &different)].concat();
        let fields = Counts::FIELDS.iter().chain(counters);
        let mut arguments = vec![counted.len().to_string()];
        arguments.extend(fields.map(|field| (*field).to_owned()));
        let rows = self
            .run_index_script(&self.scripts.history, keys, arguments)
            .await?;
        let mut rows = match rows {
            Value::Array(rows) if rows.len() == counted.len() + different.len() => rows.into_iter(),
            _ => return Err(backend("Redis did not return a row for each bucket")),
        };
        let mut buckets = Vec::with_capacity(counted.len());
        for (resolution, number) in counted {
            let counts: Vec<Option<u64>> = rows
                .next()
                .unwrap_or(Value::Null)
                .convert()
                .map_err(backend)?;
            buckets.push(Bucket {
                started_at: number * resolution.seconds(),
                counts: Counts::of(counts.into_iter().map(Option::unwrap_or_default)),
                active: None,
            });
        }
        for (bucket, row) in buckets
            .iter_mut()
            .skip(Resolution::Minute.shown())
            .zip(rows)
        {
            bucket.active = Some(row.convert().map_err(backend)?);
        }
        let days = buckets.split_off(Resolution::Minute.shown() + Resolution::Hour.shown());
        let hours = buckets.split_off(Resolution::Minute.shown());
        Ok(History {
            minutes: buckets,
            hours,
            days,
        })
    }

    async fn backfill(&self, starts: bool) -> session_store::Result<bool> {
        let completed: u64 = self.read("EXISTS", COMPLETED, Vec::new()).await?;
        if completed == 1 && !starts {
            return Ok(true);
        }
        let args = vec![1.into(), "NX".into(), "EX".into(), BACKFILL_LOCK_AGE.into()];
        let lock: Option<String> = self.write("SET", BACKFILL_LOCK, args).await?;
        if lock.is_none() {
            return Ok(false);
        }
        let one_server = u8::from(!self.is_clustered()).to_string();
        let mut scan = self.begin_scan().await?;
        let mut started = Instant::now();
        while let Some(sessions) = scan.next().await? {
            let args = |record: &Record| {
                let expires_at = record.expiry_date.unix_timestamp();
                [record.id.to_string(), expires_at.to_string()]
            };
            for chunk in sessions.chunks(CHUNK_SIZE) {
                let mut arguments = vec![self.prefix.clone(), one_server.clone()];
                arguments.extend(chunk.iter().flat_map(args));
                self.run_index_script(&self.scripts.backfill, self.index_keys(), arguments)
                    .await?;
            }
            // Leave Redis half of the time for requests.
            sleep(started.elapsed()).await;
            started = Instant::now();
        }
        let complete = scan.has_seen_all();
        self.write::<i64>("DEL", BACKFILL_LOCK, Vec::new()).await?;
        if !complete {
            return Ok(false);
        }
        let args = vec![1.into(), "EX".into(), COMPLETED_AGE.into()];
        self.write::<String>("SET", COMPLETED, args).await?;
        Ok(true)
    }
}

fn name(prefix: &str, resolution: Resolution, number: i64) -> String {
    format!("{prefix}{}:{number}", resolution.name())
}

/// The counts of a batch by the names of their fields in Redis.
fn counts_by_name(batch: &StatsBatch) -> Vec<(&'static str, u64)> {
    let names = Counts::FIELDS
        .into_iter()
        .chain(batch.counters.iter().copied());
    names.zip(batch.counts.values()).collect()
}

/// The arguments of `record.lua`. `place`: the prefix, and `1` if one server has all keys.
fn arguments(
    number: u64,
    place: [String; 2],
    counts: Vec<(&'static str, u64)>,
    seen: &[(Id, i64)],
    gone: &[Id],
) -> Vec<String> {
    let age = |resolution: Resolution| {
        let buckets = i64::try_from(resolution.shown()).unwrap_or(0) + EXTRA_BUCKETS;
        (buckets * resolution.seconds()).to_string()
    };
    let resolutions = [
        Resolution::Minute,
        Resolution::Hour,
        Resolution::Day,
        Resolution::Hour,
        Resolution::Day,
    ];
    let mut args: Vec<String> = resolutions.into_iter().map(age).collect();
    args.push(LAST_BATCH_AGE.to_string());
    args.extend(place);
    args.extend([number, counts.len() as u64, seen.len() as u64].map(|number| number.to_string()));
    args.extend(counts.iter().map(|(name, _)| (*name).to_owned()));
    args.extend(counts.iter().map(|(_, count)| count.to_string()));
    args.extend(
        seen.iter()
            .flat_map(|(id, expires_at)| [id.to_string(), expires_at.to_string()]),
    );
    args.extend(gone.iter().map(Id::to_string));
    args
}
