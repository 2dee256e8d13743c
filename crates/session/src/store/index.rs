//! What an operator's console asks of an engine, beyond sessions one by one. An engine that can't
//! offer a part says so by not having it, and the console says so in words.

use tower_sessions::{
    session::{Id, Record},
    session_store,
};

/// An engine's list of its sessions. Redis takes no longer for it the more sessions there are, but
/// for [`SessionIndex::scan`]; SQLite counts and skips them in an index, memory walks through them.
#[async_trait::async_trait]
pub trait SessionIndex: Send + Sync {
    /// How many sessions are alive.
    ///
    /// # Errors
    /// When the store fails.
    async fn count(&self) -> session_store::Result<u64>;

    /// A page of them, those that live the longest first. It may hold fewer than `take` where some
    /// have ended meanwhile.
    ///
    /// # Errors
    /// When the store fails.
    async fn page(&self, skip: u64, take: u32) -> session_store::Result<Vec<Record>>;

    /// Those whose short id begins like this.
    ///
    /// # Errors
    /// When the store fails.
    async fn search(&self, beginning: &str, take: u32) -> session_store::Result<Vec<Record>>;

    /// Begins to go through all sessions.
    ///
    /// # Errors
    /// When the store fails.
    async fn scan(&self) -> session_store::Result<Box<dyn SessionScan + '_>>;
}

/// Goes through all sessions in small steps. A session that keeps its id meanwhile is not passed over.
#[async_trait::async_trait]
pub trait SessionScan: Send {
    /// The sessions of the next step, which may be none; `None`: it is over.
    ///
    /// # Errors
    /// When the store fails.
    async fn next(&mut self) -> session_store::Result<Option<Vec<Record>>>;

    /// Whether all have been seen. `false`: the store was restarted meanwhile, so some may have been passed over.
    fn has_seen_all(&mut self) -> bool {
        true
    }
}

/// What an engine keeps of what happened lately, on all servers.
#[async_trait::async_trait]
pub trait StatsStore: Send + Sync {
    /// Adds what one server has seen. A batch that is recorded again, before the next one, counts once.
    ///
    /// # Errors
    /// When the store fails; then part of it may have been added.
    async fn record(&self, batch: &StatsBatch) -> session_store::Result<()>;

    /// What happened up to `now`, in seconds since 1970. `counters`: the names of the application's own.
    ///
    /// # Errors
    /// When the store fails.
    async fn history(&self, now: i64, counters: &[&'static str]) -> session_store::Result<History>;

    /// Adds to the list what was stored while no server kept one, unless another server does so
    /// right now, or has done so lately and this one does not start (`starts`). Says whether the list
    /// is complete.
    ///
    /// # Errors
    /// When the store fails.
    async fn backfill(&self, starts: bool) -> session_store::Result<bool>;
}

/// How much of everything happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions made.
    pub created: u64,
    /// Sessions that ended: by their own requests, by the operator, or by themselves.
    pub ended: u64,
    /// Changes saved.
    pub changes: u64,
    /// Saves that another server came before.
    pub conflicts: u64,
    /// Operations of the store.
    pub operations: u64,
    /// The microseconds that they took together.
    pub microseconds: u64,
    /// The application's own counters, in the order of
    /// [`SessionState::COUNTERS`](crate::SessionState::COUNTERS).
    pub counters: Vec<u64>,
}

impl Counts {
    /// The names of all but the application's own, as stores keep them.
    pub const FIELDS: [&'static str; 6] = [
        "created",
        "ended",
        "changes",
        "conflicts",
        "operations",
        "microseconds",
    ];

    /// All values: those of [`Counts::FIELDS`], then the application's own.
    pub fn values(&self) -> impl Iterator<Item = u64> {
        let own = [
            self.created,
            self.ended,
            self.changes,
            self.conflicts,
            self.operations,
            self.microseconds,
        ];
        own.into_iter().chain(self.counters.iter().copied())
    }

    /// The counts of such values; what is missing is 0.
    pub fn of(values: impl IntoIterator<Item = u64>) -> Self {
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or(0);
        Self {
            created: next(),
            ended: next(),
            changes: next(),
            conflicts: next(),
            operations: next(),
            microseconds: next(),
            counters: values.collect(),
        }
    }

    /// How long the store took on average, in milliseconds; 0 where it was not asked.
    pub fn milliseconds(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an average for people")]
        let (sum, number) = (self.microseconds as f64, self.operations.max(1) as f64);
        sum / number / 1_000.0
    }

    /// Whether nothing happened.
    pub fn is_zero(&self) -> bool {
        self.values().all(|value| value == 0)
    }

    /// Adds these.
    pub fn add(&mut self, other: &Self) {
        *self = self.with(other, u64::saturating_add);
    }

    /// What was added since there were `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }

    fn with(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        let length = self.counters.len().max(other.counters.len()) + Self::FIELDS.len();
        let mine = self.values().chain(std::iter::repeat(0));
        let others = other.values().chain(std::iter::repeat(0));
        Self::of(mine.zip(others).take(length).map(|(a, b)| combine(a, b)))
    }
}

/// What one server has seen in a moment.
#[derive(Clone, Debug, Default)]
pub struct StatsBatch {
    /// The server's number, and the batch's among those of that server.
    pub server: u64,
    pub number: u64,
    /// When, in seconds since 1970.
    pub now: i64,
    /// The names of the application's own counters.
    pub counters: Vec<&'static str>,
    pub counts: Counts,
    /// Sessions that were written, and when each ends (seconds since 1970).
    pub seen: Vec<(Id, i64)>,
    /// Sessions that were deleted.
    pub gone: Vec<Id>,
}

/// A step of time on a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    Minute,
    Hour,
    Day,
}

impl Resolution {
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// Its length in seconds.
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// So many steps are shown.
    pub const fn shown(self) -> usize {
        match self {
            Self::Minute => 60,
            Self::Hour => 24,
            Self::Day => 30,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// The number of the step that `now` is in, in seconds since 1970; days begin at midnight UTC.
    pub fn number(self, now: i64) -> i64 {
        now.div_euclid(self.seconds())
    }

    /// The numbers of the steps that are shown, the oldest first.
    pub fn numbers(self, now: i64) -> impl Iterator<Item = i64> {
        let last = self.number(now);
        let shown = i64::try_from(self.shown()).unwrap_or(0);
        last - shown + 1..=last
    }
}

/// What happened in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// When it began, in seconds since 1970.
    pub began: i64,
    pub counts: Counts,
    /// Sessions that were written, each once, nearly exact; `None`: nobody knows.
    pub active: Option<u64>,
}

/// What happened in the last hour by minutes, the last day by hours, the last month by days; the
/// oldest first.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub minutes: Vec<Bucket>,
    pub hours: Vec<Bucket>,
    pub days: Vec<Bucket>,
}
