//! The index of sessions and the statistics in Redis: the sessions by when they end, the same by their short ids,
//! counts by minute, hour and day, and the different sessions of each hour and day (HyperLogLog: up to 12 KiB each,
//! exact to one in a hundred). No command takes longer the more sessions there are.

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

/// Between the prefix and the names below: the part in braces keeps all of them in one place of a
/// Cluster.
const CONSOLE: &str = "{console}:";

/// The sessions by when they end, as seconds since 1970.
const SESSIONS: &str = "sessions";

/// The sessions by their ids' hashes, which short ids begin.
const SHORT_IDS: &str = "labels";

/// Before a server's number: the last batch that it has recorded, for an hour.
const LAST_BATCH: &str = "noted:";
const LAST_BATCH_AGE: i64 = 3_600;

/// Before the kind and the number of a step: its counts, and its different sessions.
const COUNTS: &str = "counts:";
const ACTIVE: &str = "active:";

/// What the rights are tried on.
const RIGHTS: &str = "rights";

/// Whoever has this completes the list.
const COMPLETING: &str = "completing";

/// So many seconds nobody else does.
const COMPLETING_AGE: i64 = 60;

/// Is there once the list has been completed, for a day: servers without a console may have left out
/// some since. A server that starts completes it in any case, for it may have been killed.
const COMPLETED: &str = "completed";
const COMPLETED_AGE: i64 = 86_400;

/// So many sessions go in one command, so that Redis is busy with none of them for long.
const TOGETHER: usize = 100;

/// A list is cleared of what ended so many seconds ago: ends are told that exactly.
const CLEARED_AFTER: i64 = 2 * EXPIRY_TOLERANCE;

/// How long counts are kept, in steps beyond those that are shown.
const KEPT: i64 = 2;

/// A script that adds sessions to the index.
macro_rules! index_script {
    ($file:literal) => {
        concat!(include_str!("lua/add_to_index.lua"), include_str!($file))
    };
}

/// The scripts. Each file names its arguments at its top.
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
    /// Runs a script of the console's, on a connection on which no request waits for what he reads: Redis
    /// may hold up who writes, and every script may write, while a replica takes over.
    async fn ask(
        &self,
        script: &Script,
        keys: Vec<String>,
        arguments: Vec<String>,
    ) -> session_store::Result<Value> {
        let arguments: Vec<Value> = arguments.into_iter().map(Value::from).collect();
        let run = |client: Client| async {
            let client = client;
            let known = Call::known(script);
            match known.on(&client, keys.clone(), arguments.clone()).await {
                Err(error) if is_unknown_script(&error) => {
                    let whole = Call::whole(script);
                    whole.on(&client, keys.clone(), arguments.clone()).await
                }
                other => other,
            }
            .map_err(backend)
        };
        self.send(&self.writes, run).await
    }

    /// The key of what the console keeps under a name.
    pub(super) fn console_key(&self, name: &str) -> String {
        format!("{}{CONSOLE}{name}", self.prefix)
    }

    /// The keys of the two lists.
    fn lists(&self) -> Vec<String> {
        vec![self.console_key(SESSIONS), self.console_key(SHORT_IDS)]
    }

    /// A command that reads one of the console's keys.
    pub(super) async fn read<T: FromValue>(
        &self,
        command: &'static str,
        name: &str,
        words: Vec<Value>,
    ) -> session_store::Result<T> {
        self.command(&self.reads, command, self.console_key(name), words)
            .await
    }

    /// One that writes it: see [`Self::ask`].
    async fn write<T: FromValue>(
        &self,
        command: &'static str,
        name: &str,
        words: Vec<Value>,
    ) -> session_store::Result<T> {
        self.command(&self.writes, command, self.console_key(name), words)
            .await
    }

    /// A command about this key, which says which server of a Cluster it goes to.
    pub(super) async fn command<T: FromValue>(
        &self,
        pool: &Pool,
        name: &'static str,
        key: String,
        words: Vec<Value>,
    ) -> session_store::Result<T> {
        let slot = redis_keyslot(key.as_bytes());
        let words = [vec![Value::from(key)], words].concat();
        let send = |client: Client| async {
            let (client, words) = (client, words.clone());
            let command = CustomCommand::new_static(name, slot, false);
            client.custom::<T, _>(command, words).await.map_err(backend)
        };
        self.send(pool, send).await
    }

    /// The records of these names. Names without one leave the lists.
    async fn records_of(&self, names: Vec<String>) -> session_store::Result<Vec<Record>> {
        let ids: Vec<Id> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let loaded = join_all(ids.iter().map(|id| self.load(id))).await;
        let (mut records, mut missing) = (Vec::new(), Vec::new());
        for (id, record) in ids.iter().zip(loaded) {
            match record {
                Ok(Some(record)) => records.push(record),
                Ok(None) => missing.push(id.to_string()),
                // One that can't be read hides no other.
                Err(session_store::Error::Decode(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if !missing.is_empty() {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            self.unlist(now, missing).await?;
        }
        Ok(records)
    }

    /// Uses the rights that the console takes, on a list of its own.
    pub(super) async fn check_console_rights(&self) -> session_store::Result<()> {
        let member = |command| self.write::<i64>(command, RIGHTS, vec![0.into(), "probe".into()]);
        member("ZADD").await?;
        self.write::<i64>("DEL", RIGHTS, Vec::new()).await?;
        self.write::<i64>("HINCRBY", RIGHTS, vec!["probe".into(), 1.into()])
            .await?;
        self.write::<i64>("DEL", RIGHTS, Vec::new()).await?;
        self.write::<i64>("PFADD", RIGHTS, vec!["probe".into()])
            .await?;
        self.read::<i64>("PFCOUNT", RIGHTS, Vec::new()).await?;
        self.write::<i64>("DEL", RIGHTS, Vec::new()).await?;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        self.count().await?;
        self.page(0, 1).await?;
        self.search("0", 1).await?;
        self.history(now, &[]).await?;
        self.clear_lists(1).await?;
        self.check_user_rights().await?;
        self.check_value_rights().await?;
        self.begin_scan().await?.next().await.map(|_| ())
    }

    /// The keys of `record.lua`.
    fn batch_keys(&self, batch: &StatsBatch) -> Vec<String> {
        let key = |prefix, step: Resolution| {
            self.console_key(&name(prefix, step, step.number(batch.now)))
        };
        let counts = Resolution::ALL.map(|step| key(COUNTS, step));
        let sessions = [Resolution::Hour, Resolution::Day].map(|step| key(ACTIVE, step));
        let last_batch = vec![self.console_key(&format!("{LAST_BATCH}{:x}", batch.server))];
        [self.lists(), counts.to_vec(), sessions.to_vec(), last_batch].concat()
    }

    /// These leave the lists, unless they have ended before that time (seconds since 1970).
    async fn unlist(&self, before: i64, names: Vec<String>) -> session_store::Result<()> {
        let words = [vec![before.to_string()], names].concat();
        self.ask(&self.scripts.remove, self.lists(), words).await?;
        Ok(())
    }

    /// Sessions that have ended leave the lists; how many did. Servers without a console may have
    /// prolonged some, which stay.
    pub(super) async fn clear_lists(&self, limit: u32) -> session_store::Result<u64> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let until = (now - CLEARED_AFTER).to_string();
        let mut cleared = 0;
        while cleared < u64::from(limit) {
            let words = ["-inf", &until, "LIMIT", "0"].map(Value::from);
            let words = [words.to_vec(), vec![Value::from(TOGETHER as i64)]].concat();
            let names: Vec<String> = self.read("ZRANGEBYSCORE", SESSIONS, words).await?;
            if names.is_empty() {
                break;
            }
            let mut arguments = vec![until.clone()];
            let left = join_all(names.iter().map(|name| self.seconds_left(name)));
            for (name, left) in names.iter().zip(left.await) {
                let ends = left?.map_or(0, |left| now + left);
                arguments.extend([name.clone(), ends.to_string()]);
            }
            let some = self
                .ask(&self.scripts.clear, self.lists(), arguments)
                .await?;
            cleared += some.convert::<u64>().map_err(backend)?;
            if names.len() < TOGETHER {
                break;
            }
        }
        Ok(cleared)
    }

    /// How long a record lives; `None`: it has gone.
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
        let words = vec![now.into(), "+inf".into()];
        self.read("ZCOUNT", SESSIONS, words).await
    }

    async fn page(&self, skip: u64, take: u32) -> session_store::Result<Vec<Record>> {
        let last = skip.saturating_add(u64::from(take)).saturating_sub(1);
        let words = vec![skip.to_string().into(), last.to_string().into()];
        let names = self.read("ZREVRANGE", SESSIONS, words).await?;
        self.records_of(names).await
    }

    async fn search(&self, beginning: &str, take: u32) -> session_store::Result<Vec<Record>> {
        let words = vec![
            format!("[{beginning}").into(),
            // No character of a name comes after this one.
            format!("({beginning}~").into(),
            "LIMIT".into(),
            0.into(),
            i64::from(take).into(),
        ];
        let names = self.read("ZRANGEBYLEX", SHORT_IDS, words).await?;
        self.records_of(names).await
    }

    /// Goes through all of Redis rather than through the list, so that no session is left out.
    async fn scan(&self) -> session_store::Result<Box<dyn SessionScan + '_>> {
        Ok(Box::new(self.begin_scan().await?))
    }
}

#[async_trait::async_trait]
impl StatsStore for Redis {
    async fn record(&self, batch: &StatsBatch) -> session_store::Result<()> {
        // Nobody comes back to the lists who has left them: all that were seen go first.
        let seen = batch
            .seen
            .chunks(TOGETHER)
            .map(|seen| (seen, [].as_slice()));
        let gone = batch
            .gone
            .chunks(TOGETHER)
            .map(|gone| ([].as_slice(), gone));
        let mut parts: Vec<(&[(Id, i64)], &[Id])> = seen.chain(gone).collect();
        if parts.is_empty() {
            parts.push((&[], &[]));
        }
        let one_server = !self.is_clustered();
        // They go with the first command.
        let mut counts = counts_by_name(batch);
        for (seen, gone) in parts {
            let place = [self.prefix.clone(), u8::from(one_server).to_string()];
            let counted = std::mem::take(&mut counts);
            let arguments = arguments(batch.number, place, counted, seen, gone);
            self.ask(&self.scripts.record, self.batch_keys(batch), arguments)
                .await?;
        }
        Ok(())
    }

    async fn history(&self, now: i64, counters: &[&'static str]) -> session_store::Result<History> {
        let numbers = |step: Resolution| step.numbers(now).map(move |number| (step, number));
        let counted: Vec<_> = Resolution::ALL.into_iter().flat_map(numbers).collect();
        let different: Vec<_> = [Resolution::Hour, Resolution::Day]
            .into_iter()
            .flat_map(numbers)
            .collect();
        let names = |prefix: &'static str, steps: &[(Resolution, i64)]| {
            let name = |(step, number): &(Resolution, i64)| {
                self.console_key(&name(prefix, *step, *number))
            };
            steps.iter().map(name).collect::<Vec<_>>()
        };
        let keys = [names(COUNTS, &counted), names(ACTIVE, &different)].concat();
        let fields = Counts::FIELDS.iter().chain(counters);
        let mut arguments = vec![counted.len().to_string()];
        arguments.extend(fields.map(|field| (*field).to_owned()));
        let rows = self.ask(&self.scripts.history, keys, arguments).await?;
        let mut rows = match rows {
            Value::Array(rows) if rows.len() == counted.len() + different.len() => rows.into_iter(),
            _ => return Err(backend("Redis did not answer for each step")),
        };
        let mut buckets = Vec::with_capacity(counted.len());
        for (step, number) in counted {
            let counts: Vec<Option<u64>> = rows
                .next()
                .unwrap_or(Value::Null)
                .convert()
                .map_err(backend)?;
            buckets.push(Bucket {
                began: number * step.seconds(),
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
        let words = vec![1.into(), "NX".into(), "EX".into(), COMPLETING_AGE.into()];
        let mine: Option<String> = self.write("SET", COMPLETING, words).await?;
        if mine.is_none() {
            return Ok(false);
        }
        let one_server = u8::from(!self.is_clustered()).to_string();
        let mut walk = self.begin_scan().await?;
        let mut began = Instant::now();
        while let Some(sessions) = walk.next().await? {
            let words = |record: &Record| {
                let ends = record.expiry_date.unix_timestamp();
                [record.id.to_string(), ends.to_string()]
            };
            for some in sessions.chunks(TOGETHER) {
                let mut arguments = vec![self.prefix.clone(), one_server.clone()];
                arguments.extend(some.iter().flat_map(words));
                self.ask(&self.scripts.backfill, self.lists(), arguments)
                    .await?;
            }
            // Requests come first: Redis rests as long as it worked for this.
            sleep(began.elapsed()).await;
            began = Instant::now();
        }
        let complete = walk.has_seen_all();
        self.write::<i64>("DEL", COMPLETING, Vec::new()).await?;
        if !complete {
            return Ok(false);
        }
        let words = vec![1.into(), "EX".into(), COMPLETED_AGE.into()];
        self.write::<String>("SET", COMPLETED, words).await?;
        Ok(true)
    }
}

fn name(prefix: &str, step: Resolution, number: i64) -> String {
    format!("{prefix}{}:{number}", step.name())
}

/// What a batch counts, by the names under which Redis keeps it.
fn counts_by_name(batch: &StatsBatch) -> Vec<(&'static str, u64)> {
    let names = Counts::FIELDS
        .into_iter()
        .chain(batch.counters.iter().copied());
    names.zip(batch.counts.values()).collect()
}

/// The arguments of `record.lua`. `place`: the prefix, and whether one server has all keys.
fn arguments(
    number: u64,
    place: [String; 2],
    counts: Vec<(&'static str, u64)>,
    seen: &[(Id, i64)],
    gone: &[Id],
) -> Vec<String> {
    let age = |step: Resolution| {
        let steps = i64::try_from(step.shown()).unwrap_or(0) + KEPT;
        (steps * step.seconds()).to_string()
    };
    let steps = [
        Resolution::Minute,
        Resolution::Hour,
        Resolution::Day,
        Resolution::Hour,
        Resolution::Day,
    ];
    let mut words: Vec<String> = steps.into_iter().map(age).collect();
    words.push(LAST_BATCH_AGE.to_string());
    words.extend(place);
    words.extend([number, counts.len() as u64, seen.len() as u64].map(|number| number.to_string()));
    words.extend(counts.iter().map(|(name, _)| (*name).to_owned()));
    words.extend(counts.iter().map(|(_, count)| count.to_string()));
    words.extend(
        seen.iter()
            .flat_map(|(id, ends)| [id.to_string(), ends.to_string()]),
    );
    words.extend(gone.iter().map(Id::to_string));
    words
}
