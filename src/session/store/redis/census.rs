//! What Redis keeps for the operator's console: a list of the sessions by their end, the same by
//! their labels, counts by minute, hour and day, and the different visitors of each hour and day
//! (HyperLogLog: 12 KiB each at the most, exact to one in a hundred). No command takes longer the
//! more sessions there are.

mod walk;

use fred::{
    error::Error,
    interfaces::ClientLike,
    prelude::Pool,
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

use super::{Call, Redis, backend, is_unknown_script};
use crate::session::{
    record::Stored,
    register::EXACT_TO,
    store::census::{Census, Choice, Counts, Lately, Ledger, Page, Span, Step},
};

/// The sessions by when they end, as seconds since 1970.
const SESSIONS: &str = "tally:{console}:sessions";

/// The sessions by their names, which labels begin.
const LABELS: &str = "tally:{console}:labels";

/// Before a server's number: the last page that it has noted, for an hour.
const NOTED: &str = "tally:{console}:noted:";
const NOTED_AGE: i64 = 3_600;

/// Before the kind and the number of a step: its counts, and its different visitors. All of these
/// names have one part in braces, so that a Cluster keeps them in one place.
const COUNTS: &str = "tally:{console}:counts:";
const VISITORS: &str = "tally:{console}:visitors:";

/// Whoever has this completes the list.
const COMPLETING: &str = "tally:{console}:completing";

/// So many seconds nobody else does.
const COMPLETING_AGE: i64 = 60;

/// Is there once the list has been completed, for a day: servers without a console may have left out
/// some since. A server that starts completes it in any case, for it may have been killed.
const COMPLETED: &str = "tally:{console}:completed";
const COMPLETED_AGE: i64 = 86_400;

/// So many sessions go in one command, so that Redis is busy with none of them for long.
const TOGETHER: usize = 100;

/// A list is cleared of what ended so many seconds ago: ends are told that exactly.
const CLEARED_AFTER: i64 = 2 * EXACT_TO;

/// How long counts are kept, in steps beyond those that are shown.
const KEPT: i64 = 2;

/// The beginning of scripts whose first two keys are the lists: puts a session into both.
///
/// What is told may come in any order, and after a session's deletion: the record itself says
/// whether it is there and when it ends. In a Cluster (`one_server` is not '1') it is out of reach
/// here: the later end counts then, and a session that was deleted elsewhere in the same second may
/// stay in the lists until somebody looks at their page.
macro_rules! with_listing {
    ($script:literal) => {
        concat!(
            "local now = tonumber(redis.call('TIME')[1]) local function list(id, ends, one_server) \
            if one_server == '1' then local left = redis.call('TTL', id) \
            if left <= 0 then return end ends = now + left \
            else ends = math.max(ends, tonumber(redis.call('ZSCORE', KEYS[1], id) or 0)) end \
            redis.call('ZADD', KEYS[1], ends, id) redis.call('ZADD', KEYS[2], 0, id) end ",
            $script
        )
    };
}

/// KEYS: the two lists, the counts of the minute, the hour and the day, the visitors of the hour and
/// the day, the last page of this server. ARGV: the ages of those six, the page's number, the six
/// counts, whether all keys are on one server, how many sessions were seen, each with its end, then
/// those that are gone.
const NOTE: &str = with_listing!(
    "local names = {'visits', 'created', 'ended', 'conflicts', 'operations', 'microseconds'} \
    if tonumber(redis.call('GET', KEYS[8]) or 0) < tonumber(ARGV[7]) then \
    redis.call('SET', KEYS[8], ARGV[7]) \
    for key = 3, 5 do for number = 1, #names do local count = ARGV[7 + number] \
    if count ~= '0' then redis.call('HINCRBY', KEYS[key], names[number], count) end end end end \
    local place = 16 for _ = 1, tonumber(ARGV[15]) do local id = ARGV[place] \
    list(id, tonumber(ARGV[place + 1]), ARGV[14]) \
    redis.call('PFADD', KEYS[6], id) redis.call('PFADD', KEYS[7], id) place = place + 2 end \
    for number = place, #ARGV do \
    redis.call('ZREM', KEYS[1], ARGV[number]) redis.call('ZREM', KEYS[2], ARGV[number]) end \
    for key = 3, 8 do redis.call('EXPIRE', KEYS[key], ARGV[key - 2]) end return 1"
);

/// KEYS: the two lists. ARGV: whether all keys are on one server, then sessions, each with its end.
const LIST: &str = with_listing!(
    "for place = 2, #ARGV, 2 do list(ARGV[place], tonumber(ARGV[place + 1]), ARGV[1]) end return 1"
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

/// KEYS: counts, as many as ARGV says, then visitors. Returns a row for each.
const LATELY: &str = "local rows = {} for number, key in ipairs(KEYS) do \
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
    lately: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            note: Script::from_lua(NOTE),
            list: Script::from_lua(LIST),
            unlist: Script::from_lua(UNLIST),
            clear: Script::from_lua(CLEAR),
            lately: Script::from_lua(LATELY),
        }
    }
}

impl Redis {
    /// Runs a script of the console's, on a connection on which no visitor waits for what he reads: Redis
    /// may hold up who writes, and every script may write, while a replica takes over.
    async fn ask(
        &self,
        script: &Script,
        keys: Vec<String>,
        arguments: Vec<String>,
    ) -> session_store::Result<Value> {
        let arguments: Vec<Value> = arguments.into_iter().map(Value::from).collect();
        let (client, known) = (self.writes.next(), Call::known(script));
        let result = match known.on(client, keys.clone(), arguments.clone()).await {
            Err(error) if is_unknown_script(&error) => {
                Call::whole(script).on(client, keys, arguments).await
            }
            other => other,
        };
        result.map_err(backend)
    }

    /// A command that reads the console's keys.
    async fn read<T: FromValue>(
        &self,
        name: &'static str,
        words: Vec<Value>,
    ) -> session_store::Result<T> {
        command(&self.pool, SESSIONS, name, words).await
    }

    /// One that writes them: see [`Self::ask`].
    async fn write<T: FromValue>(
        &self,
        name: &'static str,
        words: Vec<Value>,
    ) -> session_store::Result<T> {
        command(&self.writes, SESSIONS, name, words).await
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

    /// These leave the lists, unless they have ended before that time (seconds since 1970).
    async fn unlist(&self, before: i64, names: Vec<String>) -> session_store::Result<()> {
        let words = [vec![before.to_string()], names].concat();
        self.ask(&self.scripts.unlist, lists(), words).await?;
        Ok(())
    }

    /// Sessions that have ended leave the lists; how many did. Servers without a console may have
    /// prolonged some, which stay.
    pub(super) async fn clear_lists(&self, limit: u32) -> session_store::Result<u64> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let until = (now - CLEARED_AFTER).to_string();
        let mut cleared = 0;
        while cleared < u64::from(limit) {
            let words = [SESSIONS, "-inf", &until, "LIMIT", "0"].map(Value::from);
            let words = [words.to_vec(), vec![Value::from(TOGETHER as i64)]].concat();
            let names: Vec<String> = self.read("ZRANGEBYSCORE", words).await?;
            if names.is_empty() {
                break;
            }
            let mut arguments = vec![until.clone()];
            let left = join_all(names.iter().map(|name| self.seconds_left(name)));
            for (name, left) in names.iter().zip(left.await) {
                let ends = left?.map_or(0, |left| now + left);
                arguments.extend([name.clone(), ends.to_string()]);
            }
            let some = self.ask(&self.scripts.clear, lists(), arguments).await?;
            cleared += some.convert::<u64>().map_err(backend)?;
            if names.len() < TOGETHER {
                break;
            }
        }
        Ok(cleared)
    }

    /// How long a record lives; `None`: it has gone.
    async fn seconds_left(&self, name: &str) -> session_store::Result<Option<i64>> {
        let left: i64 = command(&self.pool, name, "TTL", vec![name.into()]).await?;
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
impl Census for Redis {
    async fn alive(&self) -> session_store::Result<u64> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let words = vec![SESSIONS.into(), now.into(), "+inf".into()];
        self.read("ZCOUNT", words).await
    }

    async fn page(&self, skip: u64, take: u32) -> session_store::Result<Vec<Record>> {
        let last = skip.saturating_add(u64::from(take)).saturating_sub(1);
        let words = vec![
            SESSIONS.into(),
            skip.to_string().into(),
            last.to_string().into(),
        ];
        let names = self.read("ZREVRANGE", words).await?;
        self.records_of(names).await
    }

    async fn labelled(&self, beginning: &str, take: u32) -> session_store::Result<Vec<Record>> {
        let words = vec![
            LABELS.into(),
            format!("[{beginning}").into(),
            // No character of a name comes after this one.
            format!("({beginning}~").into(),
            "LIMIT".into(),
            0.into(),
            i64::from(take).into(),
        ];
        let names = self.read("ZRANGEBYLEX", words).await?;
        self.records_of(names).await
    }

    /// Walks through all of Redis rather than through the list, for nobody may be left out.
    async fn delete_all(
        &self,
        doomed: Choice<'_>,
        deleted: &mut (dyn FnMut(Id) + Send),
    ) -> session_store::Result<bool> {
        let mut walk = self.walk();
        while let Some(sessions) = walk.next().await? {
            let doomed = sessions
                .iter()
                .filter(|(record, stored)| doomed(&record.id, stored));
            let doomed: Vec<Id> = doomed.map(|(record, _)| record.id).collect();
            self.delete_some(&doomed, deleted).await?;
        }
        Ok(walk.has_seen_all())
    }
}

#[async_trait::async_trait]
impl Ledger for Redis {
    async fn note(&self, page: &Page) -> session_store::Result<()> {
        // Nobody comes back to the lists who has left them: all that were seen go first.
        let seen = page.seen.chunks(TOGETHER).map(|seen| (seen, [].as_slice()));
        let gone = page.gone.chunks(TOGETHER).map(|gone| ([].as_slice(), gone));
        let mut parts: Vec<(&[(Id, i64)], &[Id])> = seen.chain(gone).collect();
        if parts.is_empty() {
            parts.push((&[], &[]));
        }
        let one_server = !self.pool.is_clustered();
        // They go with the first command.
        let mut counts = page.counts;
        for (seen, gone) in parts {
            let arguments = arguments(page.number, counts, one_server, seen, gone);
            self.ask(&self.scripts.note, keys(page), arguments).await?;
            counts = Counts::default();
        }
        Ok(())
    }

    async fn lately(&self, now: i64) -> session_store::Result<Lately> {
        let numbers = |step: Step| step.numbers(now).map(move |number| (step, number));
        let counted: Vec<_> = Step::ALL.into_iter().flat_map(numbers).collect();
        let visited: Vec<_> = [Step::Hour, Step::Day]
            .into_iter()
            .flat_map(numbers)
            .collect();
        let names = |prefix: &'static str, steps: &[(Step, i64)]| {
            let name = |(step, number): &(Step, i64)| name(prefix, *step, *number);
            steps.iter().map(name).collect::<Vec<_>>()
        };
        let keys = [names(COUNTS, &counted), names(VISITORS, &visited)].concat();
        let arguments = vec![counted.len().to_string()];
        let rows = self.ask(&self.scripts.lately, keys, arguments).await?;
        let mut rows = match rows {
            Value::Array(rows) if rows.len() == counted.len() + visited.len() => rows.into_iter(),
            _ => return Err(backend("Redis did not answer for each step")),
        };
        let mut spans = Vec::with_capacity(counted.len());
        for (step, number) in counted {
            let counts: Vec<Option<u64>> = rows
                .next()
                .unwrap_or(Value::Null)
                .convert()
                .map_err(backend)?;
            let counts: Vec<u64> = counts.into_iter().map(Option::unwrap_or_default).collect();
            spans.push(Span {
                began: number * step.seconds(),
                counts: Counts::of(counts.try_into().unwrap_or_default()),
                visitors: None,
            });
        }
        for (span, row) in spans.iter_mut().skip(Step::Minute.shown()).zip(rows) {
            span.visitors = Some(row.convert().map_err(backend)?);
        }
        let days = spans.split_off(Step::Minute.shown() + Step::Hour.shown());
        let hours = spans.split_off(Step::Minute.shown());
        Ok(Lately {
            minutes: spans,
            hours,
            days,
        })
    }

    async fn complete(&self, starts: bool) -> session_store::Result<bool> {
        let completed: u64 = self.read("EXISTS", vec![COMPLETED.into()]).await?;
        if completed == 1 && !starts {
            return Ok(true);
        }
        let words = vec![
            COMPLETING.into(),
            1.into(),
            "NX".into(),
            "EX".into(),
            COMPLETING_AGE.into(),
        ];
        let mine: Option<String> = self.write("SET", words).await?;
        if mine.is_none() {
            return Ok(false);
        }
        let one_server = u8::from(!self.pool.is_clustered()).to_string();
        let mut walk = self.walk();
        let mut began = Instant::now();
        while let Some(sessions) = walk.next().await? {
            let words = |(record, _): &(Record, Stored)| {
                let ends = record.expiry_date.unix_timestamp();
                [record.id.to_string(), ends.to_string()]
            };
            for some in sessions.chunks(TOGETHER) {
                let mut arguments = vec![one_server.clone()];
                arguments.extend(some.iter().flat_map(words));
                self.ask(&self.scripts.list, lists(), arguments).await?;
            }
            // Visitors come first: Redis rests as long as it worked for this.
            sleep(began.elapsed()).await;
            began = Instant::now();
        }
        let complete = walk.has_seen_all();
        self.write::<i64>("DEL", vec![COMPLETING.into()]).await?;
        if !complete {
            return Ok(false);
        }
        let words = vec![
            COMPLETED.into(),
            1.into(),
            "EX".into(),
            COMPLETED_AGE.into(),
        ];
        self.write::<String>("SET", words).await?;
        Ok(true)
    }
}

/// A command about this key, which says which server of a Cluster it goes to.
async fn command<T: FromValue>(
    pool: &Pool,
    key: &str,
    name: &'static str,
    words: Vec<Value>,
) -> session_store::Result<T> {
    let slot = redis_keyslot(key.as_bytes());
    let command = CustomCommand::new_static(name, slot, false);
    let done: Result<T, Error> = pool.next().custom(command, words).await;
    done.map_err(backend)
}

fn lists() -> Vec<String> {
    vec![SESSIONS.to_owned(), LABELS.to_owned()]
}

fn name(prefix: &str, step: Step, number: i64) -> String {
    format!("{prefix}{}:{number}", step.name())
}

/// The keys of [`NOTE`].
fn keys(page: &Page) -> Vec<String> {
    let key = |prefix, step: Step| name(prefix, step, step.number(page.now));
    let counts = Step::ALL.map(|step| key(COUNTS, step));
    let visitors = [Step::Hour, Step::Day].map(|step| key(VISITORS, step));
    let noted = vec![format!("{NOTED}{:x}", page.server)];
    [lists(), counts.to_vec(), visitors.to_vec(), noted].concat()
}

/// The arguments of [`NOTE`].
fn arguments(
    number: u64,
    counts: Counts,
    one_server: bool,
    seen: &[(Id, i64)],
    gone: &[Id],
) -> Vec<String> {
    let age = |step: Step| {
        let steps = i64::try_from(step.shown()).unwrap_or(0) + KEPT;
        (steps * step.seconds()).to_string()
    };
    let steps = [Step::Minute, Step::Hour, Step::Day, Step::Hour, Step::Day];
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
