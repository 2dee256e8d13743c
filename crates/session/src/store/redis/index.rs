//! What Redis keeps for the operator's console: a list of the sessions by their end, the same by
//! their labels, counts by minute, hour and day, and the different sessions of each hour and day
//! (HyperLogLog: 12 KiB each at the most, exact to one in a hundred). No command takes longer the
//! more sessions there are.

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
    stats::EXACT_TO,
    store::index::{
        Bucket, Counts, History, Predicate, Resolution, SessionIndex, StatsBatch, StatsStore,
    },
};

/// Between the prefix and the names below: the part in braces keeps all of them in one place of a
/// Cluster.
const CONSOLE: &str = "{console}:";

/// The sessions by when they end, as seconds since 1970.
const SESSIONS: &str = "sessions";

/// The sessions by their names, which labels begin.
const LABELS: &str = "labels";

/// Before a server's number: the last page that it has noted, for an hour.
const NOTED: &str = "noted:";
const NOTED_AGE: i64 = 3_600;

/// Before the kind and the number of a step: its counts, and its different sessions.
const COUNTS: &str = "counts:";
const DIFFERENT: &str = "visitors:";

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
const CLEARED_AFTER: i64 = 2 * EXACT_TO;

/// How long counts are kept, in steps beyond those that are shown.
const KEPT: i64 = 2;

/// The beginning of scripts whose first two keys are the lists, and whose first argument is what stands
/// before a session's name in the key of its record: puts a session into both.
///
/// What is told may come in any order, and after a session's deletion: the record itself says
/// whether it is there and when it ends. In a Cluster (`one_server` is not '1') it is out of reach
/// here: the later end counts then, and a session that was deleted elsewhere in the same second may
/// stay in the lists until somebody looks at their page.
macro_rules! with_listing {
    ($script:literal) => {
        concat!(
            "local now = tonumber(redis.call('TIME')[1]) local function list(id, ends, one_server) \
            if one_server == '1' then local left = redis.call('TTL', ARGV[1] .. id) \
            if left <= 0 then return end ends = now + left \
            else ends = math.max(ends, tonumber(redis.call('ZSCORE', KEYS[1], id) or 0)) end \
            redis.call('ZADD', KEYS[1], ends, id) redis.call('ZADD', KEYS[2], 0, id) end ",
            $script
        )
    };
}

/// KEYS: the two lists, the counts of the minute, the hour and the day, the sessions of the hour and
/// the day, the last page of this server. ARGV: the prefix, the ages of those six, the page's number, the six
/// counts, whether all keys are on one server, how many sessions were seen, each with its end, then
/// those that are gone.
const NOTE: &str = with_listing!(
    "local names = {'visits', 'created', 'ended', 'conflicts', 'operations', 'microseconds'} \
    if tonumber(redis.call('GET', KEYS[8]) or 0) < tonumber(ARGV[8]) then \
    redis.call('SET', KEYS[8], ARGV[8]) \
    for key = 3, 5 do for number = 1, #names do local count = ARGV[8 + number] \
    if count ~= '0' then redis.call('HINCRBY', KEYS[key], names[number], count) end end end end \
    local place = 17 for _ = 1, tonumber(ARGV[16]) do local id = ARGV[place] \
    list(id, tonumber(ARGV[place + 1]), ARGV[15]) \
    redis.call('PFADD', KEYS[6], id) redis.call('PFADD', KEYS[7], id) place = place + 2 end \
    for number = place, #ARGV do \
    redis.call('ZREM', KEYS[1], ARGV[number]) redis.call('ZREM', KEYS[2], ARGV[number]) end \
    for key = 3, 8 do redis.call('EXPIRE', KEYS[key], ARGV[key - 1]) end return 1"
);

/// KEYS: the two lists. ARGV: the prefix, whether all keys are on one server, then sessions, each with
/// its end.
const LIST: &str = with_listing!(
    "for place = 3, #ARGV, 2 do list(ARGV[place], tonumber(ARGV[place + 1]), ARGV[2]) end return 1"
);

/// KEYS: the two lists. ARGV: a time, and the sessions that leave them unless they have ended before
/// it: those are counted when they are cleared away.
const UNLIST: &str = "for place = 2, #ARGV do local id = ARGV[place] \
    local ends = redis.call('ZSCORE', KEYS[1], id) \
    if ends and tonumber(ends) >= tonumber(ARGV[1]) then \
    redis.call('ZREM', KEYS[1], id) redis.call('ZREM', KEYS[2], id) end end return 1";

/// KEYS: the two lists. ARGV: up to when sessions should have ended, then such ones, each with when
/// it really ends, or 0 where it has ended and leaves. Returns how many left.
const CLEAR: &str = "local left = 0 for place = 2, #ARGV, 2 do local id = ARGV[place] \
    local listed = redis.call('ZSCORE', KEYS[1], id) \
    if listed and tonumber(listed) <= tonumber(ARGV[1]) then \
    if ARGV[place + 1] ~= '0' then redis.call('ZADD', KEYS[1], ARGV[place + 1], id) \
    else redis.call('ZREM', KEYS[1], id) redis.call('ZREM', KEYS[2], id) left = left + 1 end end end \
    return left";

/// KEYS: counts, as many as ARGV says, then sessions. Returns a row for each.
const HISTORY: &str = "local rows = {} for number, key in ipairs(KEYS) do \
    if number <= tonumber(ARGV[1]) then rows[number] = redis.call('HMGET', key, \
    'visits', 'created', 'ended', 'conflicts', 'operations', 'microseconds') \
    else rows[number] = redis.call('PFCOUNT', key) end end return rows";

/// The scripts above.
#[derive(Debug)]
pub struct Scripts {
    note: Script,
    list: Script,
    unlist: Script,
    clear: Script,
    history: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            note: Script::from_lua(NOTE),
            list: Script::from_lua(LIST),
            unlist: Script::from_lua(UNLIST),
            clear: Script::from_lua(CLEAR),
            history: Script::from_lua(HISTORY),
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
    fn console_key(&self, name: &str) -> String {
        format!("{}{CONSOLE}{name}", self.prefix)
    }

    /// The keys of the two lists.
    fn lists(&self) -> Vec<String> {
        vec![self.console_key(SESSIONS), self.console_key(LABELS)]
    }

    /// A command that reads one of the console's keys.
    async fn read<T: FromValue>(
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
    async fn command<T: FromValue>(
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
        self.history(now).await?;
        self.clear_lists(1).await?;
        self.scan().await?.next().await.map(|_| ())
    }

    /// The keys of [`NOTE`].
    fn batch_keys(&self, page: &StatsBatch) -> Vec<String> {
        let key =
            |prefix, step: Resolution| self.console_key(&name(prefix, step, step.number(page.now)));
        let counts = Resolution::ALL.map(|step| key(COUNTS, step));
        let sessions = [Resolution::Hour, Resolution::Day].map(|step| key(DIFFERENT, step));
        let noted = vec![self.console_key(&format!("{NOTED}{:x}", page.server))];
        [self.lists(), counts.to_vec(), sessions.to_vec(), noted].concat()
    }

    /// These leave the lists, unless they have ended before that time (seconds since 1970).
    async fn unlist(&self, before: i64, names: Vec<String>) -> session_store::Result<()> {
        let words = [vec![before.to_string()], names].concat();
        self.ask(&self.scripts.unlist, self.lists(), words).await?;
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

    /// Deletes these, and tells of each that is gone, even where another one is not.
    async fn delete_some(
        &self,
        sessions: &[Id],
        deleted: &mut (dyn FnMut(Id) + Send),
    ) -> session_store::Result<()> {
        let results = join_all(sessions.iter().map(|id| self.delete(id))).await;
        let (mut gone, mut failed) = (Vec::new(), Ok(()));
        for (id, result) in sessions.iter().zip(results) {
            match result {
                Ok(()) => {
                    deleted(*id);
                    gone.push(id.to_string());
                }
                Err(error) => failed = Err(error),
            }
        }
        for some in gone.chunks(TOGETHER) {
            self.unlist(0, some.to_vec()).await?;
        }
        failed
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
        let names = self.read("ZRANGEBYLEX", LABELS, words).await?;
        self.records_of(names).await
    }

    /// Walks through all of Redis rather than through the list, for nobody may be left out.
    async fn delete_all(
        &self,
        predicate: Predicate<'_>,
        deleted: &mut (dyn FnMut(Id) + Send),
    ) -> session_store::Result<bool> {
        let mut walk = self.scan().await?;
        while let Some(sessions) = walk.next().await? {
            let predicate = sessions.iter().filter(|record| predicate(record));
            let predicate: Vec<Id> = predicate.map(|record| record.id).collect();
            self.delete_some(&predicate, deleted).await?;
        }
        Ok(walk.has_seen_all())
    }
}

#[async_trait::async_trait]
impl StatsStore for Redis {
    async fn record(&self, page: &StatsBatch) -> session_store::Result<()> {
        // Nobody comes back to the lists who has left them: all that were seen go first.
        let seen = page.seen.chunks(TOGETHER).map(|seen| (seen, [].as_slice()));
        let gone = page.gone.chunks(TOGETHER).map(|gone| ([].as_slice(), gone));
        let mut parts: Vec<(&[(Id, i64)], &[Id])> = seen.chain(gone).collect();
        if parts.is_empty() {
            parts.push((&[], &[]));
        }
        let one_server = !self.is_clustered();
        // They go with the first command.
        let mut counts = page.counts;
        for (seen, gone) in parts {
            let arguments = arguments(page.number, counts, one_server, seen, gone);
            let arguments = [vec![self.prefix.clone()], arguments].concat();
            self.ask(&self.scripts.note, self.batch_keys(page), arguments)
                .await?;
            counts = Counts::default();
        }
        Ok(())
    }

    async fn history(&self, now: i64) -> session_store::Result<History> {
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
        let keys = [names(COUNTS, &counted), names(DIFFERENT, &different)].concat();
        let arguments = vec![counted.len().to_string()];
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
            let counts: Vec<u64> = counts.into_iter().map(Option::unwrap_or_default).collect();
            buckets.push(Bucket {
                began: number * step.seconds(),
                counts: Counts::of(counts.try_into().unwrap_or_default()),
                sessions: None,
            });
        }
        for (bucket, row) in buckets
            .iter_mut()
            .skip(Resolution::Minute.shown())
            .zip(rows)
        {
            bucket.sessions = Some(row.convert().map_err(backend)?);
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
        let mut walk = self.scan().await?;
        let mut began = Instant::now();
        while let Some(sessions) = walk.next().await? {
            let words = |record: &Record| {
                let ends = record.expiry_date.unix_timestamp();
                [record.id.to_string(), ends.to_string()]
            };
            for some in sessions.chunks(TOGETHER) {
                let mut arguments = vec![self.prefix.clone(), one_server.clone()];
                arguments.extend(some.iter().flat_map(words));
                self.ask(&self.scripts.list, self.lists(), arguments)
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

/// The arguments of [`NOTE`] after the prefix.
fn arguments(
    number: u64,
    counts: Counts,
    one_server: bool,
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
    words.extend([NOTED_AGE.to_string(), number.to_string()]);
    words.extend(counts.values().map(|count| count.to_string()));
    words.push(u8::from(one_server).to_string());
    words.push(seen.len().to_string());
    words.extend(
        seen.iter()
            .flat_map(|(id, ends)| [id.to_string(), ends.to_string()]),
    );
    words.extend(gone.iter().map(Id::to_string));
    words
}
