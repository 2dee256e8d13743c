//! Optional traits of a store for the operator's console: the index of sessions, and statistics.

use tower_sessions::{
    session::{Id, Record},
    session_store,
};

/// An index of a store's sessions.
///
/// In Redis, the cost of each method except [`SessionIndex::scan`] does not grow with the number of sessions. SQLite
/// counts and skips sessions in a database index. Memory iterates over all sessions.
#[async_trait::async_trait]
pub trait SessionIndex: Send + Sync {
    /// The number of sessions that have not expired.
    ///
    /// # Errors
    /// When the store fails.
    async fn count(&self) -> session_store::Result<u64>;

    /// Lists up to `take` sessions after the first `skip`, the last to expire first. The list may be shorter if
    /// sessions have ended in the meantime.
    ///
    /// # Errors
    /// When the store fails.
    async fn page(&self, skip: u64, take: u32) -> session_store::Result<Vec<Record>>;

    /// Finds up to `take` sessions whose short ids begin with `beginning`.
    ///
    /// # Errors
    /// When the store fails.
    async fn search(&self, beginning: &str, take: u32) -> session_store::Result<Vec<Record>>;

    /// Begins a scan of all sessions.
    ///
    /// # Errors
    /// When the store fails.
    async fn scan(&self) -> session_store::Result<Box<dyn SessionScan + '_>>;
}

/// A scan of all sessions in small batches. It returns every session that exists under the same id during the whole
/// scan.
#[async_trait::async_trait]
pub trait SessionScan: Send {
    /// Returns the next batch of sessions, which may be empty. `None`: the scan has ended.
    ///
    /// # Errors
    /// When the store fails.
    async fn next(&mut self) -> session_store::Result<Option<Vec<Record>>>;

    /// Whether the scan was complete. `false`: the store was restarted in the meantime, so the scan may have missed
    /// sessions.
    fn has_seen_all(&mut self) -> bool {
        true
    }
}

/// A store's statistics of the last month, of all servers.
#[async_trait::async_trait]
pub trait StatsStore: Send + Sync {
    /// Adds a batch of one server's statistics. A batch that is recorded twice, before the server's next one, counts
    /// once.
    ///
    /// # Errors
    /// When the store fails. Part of the batch may have been added.
    async fn record(&self, batch: &StatsBatch) -> session_store::Result<()>;

    /// Returns the history up to `now`, in seconds since 1970. `counters`: the names of the application's own counters.
    ///
    /// # Errors
    /// When the store fails.
    async fn history(&self, now: i64, counters: &[&'static str]) -> session_store::Result<History>;

    /// Adds sessions to the index that were stored while no server maintained it. Returns whether the index is
    /// complete.
    ///
    /// It does nothing while another server backfills the index, nor if the index was completed recently. A server that
    /// has just started (`starts`) backfills it even then.
    ///
    /// # Errors
    /// When the store fails.
    async fn backfill(&self, starts: bool) -> session_store::Result<bool>;
}

/// The numbers that statistics count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions created.
    pub created: u64,
    /// Sessions that ended: by their own requests, by their users, by an operator, or by expiry.
    pub ended: u64,
    /// Changes saved.
    pub changes: u64,
    /// Saves that conflicted with another server's.
    pub conflicts: u64,
    /// Store operations.
    pub operations: u64,
    /// The total duration of the store operations, in microseconds.
    pub microseconds: u64,
    /// The application's own counters, in the order of
    /// [`SessionState::COUNTERS`](crate::SessionState::COUNTERS).
    pub counters: Vec<u64>,
}

impl Counts {
    /// The names of the built-in counts, under which stores keep them.
    pub const FIELDS: [&'static str; 6] = [
        "created",
        "ended",
        "changes",
        "conflicts",
        "operations",
        "microseconds",
    ];

    /// All values: those of [`Counts::FIELDS`], then the application's own counters.
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

    /// Builds counts from values in the order of [`Counts::values`]. Missing values are 0.
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

    /// The average duration of a store operation in milliseconds, or 0 if there was none.
    pub fn milliseconds(&self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "an average needs no full precision"
        )]
        let (sum, number) = (self.microseconds as f64, self.operations.max(1) as f64);
        sum / number / 1_000.0
    }

    /// Whether all counts are 0.
    pub fn is_zero(&self) -> bool {
        self.values().all(|value| value == 0)
    }

    /// Adds other counts to these.
    pub fn add(&mut self, other: &Self) {
        *self = self.with(other, u64::saturating_add);
    }

    /// The difference to `earlier` counts.
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

/// The statistics of one server since its last batch.
#[derive(Clone, Debug, Default)]
pub struct StatsBatch {
    /// The server's random number.
    pub server: u64,
    /// The number of the batch among the server's batches.
    pub number: u64,
    /// The time of the batch, in seconds since 1970.
    pub now: i64,
    /// The names of the application's own counters.
    pub counters: Vec<&'static str>,
    pub counts: Counts,
    /// Sessions that were written, each with its expiry in seconds since 1970.
    pub seen: Vec<(Id, i64)>,
    /// Sessions that were deleted.
    pub gone: Vec<Id>,
}

/// The length of a [`Bucket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    Minute,
    Hour,
    Day,
}

impl Resolution {
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// The length in seconds.
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// The number of buckets in a [`History`].
    pub const fn shown(self) -> usize {
        match self {
            Self::Minute => 60,
            Self::Hour => 24,
            Self::Day => 30,
        }
    }

    /// The name under which stores keep buckets of this length.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// The number of the bucket that contains `now`, in seconds since 1970. Days begin at midnight UTC.
    pub fn number(self, now: i64) -> i64 {
        now.div_euclid(self.seconds())
    }

    /// The numbers of the buckets in a [`History`], the oldest first.
    pub fn numbers(self, now: i64) -> impl Iterator<Item = i64> {
        let last = self.number(now);
        let shown = i64::try_from(self.shown()).unwrap_or(0);
        last - shown + 1..=last
    }
}

/// The statistics of a minute, an hour or a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The start of the bucket, in seconds since 1970.
    pub started_at: i64,
    pub counts: Counts,
    /// The approximate number of different sessions that were written. `None`: unknown.
    pub active: Option<u64>,
}

/// Statistics: the last hour by minutes, the last day by hours, and the last 30 days by days. The oldest bucket is
/// first.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub minutes: Vec<Bucket>,
    pub hours: Vec<Bucket>,
    pub days: Vec<Bucket>,
}
