//! What an operator's console asks of an engine, beyond sessions one by one. An engine that can't
//! offer a part says so by not having it, and the console says so in words.

use std::ops::{AddAssign, Sub};

use tower_sessions::{
    session::{Id, Record},
    session_store,
};

/// Says of which sessions something is meant.
pub type Predicate<'a> = &'a (dyn Fn(&Record) -> bool + Send + Sync);

/// An engine's list of its sessions. Redis takes no longer for it the more sessions there are, but
/// for [`SessionIndex::delete_all`]; SQLite counts and skips them in an index, memory walks through them.
#[async_trait::async_trait]
pub trait SessionIndex: Send + Sync {
    /// How many sessions are alive. A pass that nobody has used may count as one.
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

    /// Deletes every session that `predicate` says, in small batches, and tells of each. None is passed
    /// over that keeps its id meanwhile; `false`: the store was restarted, so some may have been.
    ///
    /// # Errors
    /// When the store fails; some are deleted then.
    async fn delete_all(
        &self,
        predicate: Predicate<'_>,
        deleted: &mut (dyn FnMut(Id) + Send),
    ) -> session_store::Result<bool>;
}

/// What an engine keeps of what happened lately, on all servers.
#[async_trait::async_trait]
pub trait StatsStore: Send + Sync {
    /// Adds what one server has seen. A page that is noted again, before the next one, counts once.
    ///
    /// # Errors
    /// When the store fails; then part of it may have been added.
    async fn record(&self, page: &StatsBatch) -> session_store::Result<()>;

    /// What happened up to `now`, in seconds since 1970.
    ///
    /// # Errors
    /// When the store fails.
    async fn history(&self, now: i64) -> session_store::Result<History>;

    /// Adds to the list what was stored while no server kept one, unless another server does so
    /// right now, or has done so lately and this one does not start (`starts`). Says whether the list
    /// is complete.
    ///
    /// # Errors
    /// When the store fails.
    async fn backfill(&self, starts: bool) -> session_store::Result<bool>;
}

/// How much of everything happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// What [`SessionState::activity`](crate::SessionState::activity) counted.
    pub activity: u64,
    /// Sessions made.
    pub created: u64,
    /// Sessions that ended: by their own requests, by the operator, or by themselves.
    pub ended: u64,
    /// Saves that another server came before.
    pub conflicts: u64,
    /// Operations of the store, and the microseconds that they took together.
    pub operations: u64,
    pub microseconds: u64,
}

impl Counts {
    /// How many there are.
    pub const NUMBER: usize = 6;

    /// Their values, in the order of [`Counts::of`].
    pub fn values(&self) -> [u64; Self::NUMBER] {
        [
            self.activity,
            self.created,
            self.ended,
            self.conflicts,
            self.operations,
            self.microseconds,
        ]
    }

    /// The counts of these values.
    pub fn of(values: [u64; Self::NUMBER]) -> Self {
        let [
            activity,
            created,
            ended,
            conflicts,
            operations,
            microseconds,
        ] = values;
        Self {
            activity,
            created,
            ended,
            conflicts,
            operations,
            microseconds,
        }
    }

    /// How long the store took on average, in milliseconds; 0 where it was not asked.
    pub fn milliseconds(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an average for people")]
        let (sum, number) = (self.microseconds as f64, self.operations.max(1) as f64);
        sum / number / 1_000.0
    }

    fn with(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        let (mine, others) = (self.values(), other.values());
        Self::of(std::array::from_fn(|place| {
            combine(mine[place], others[place])
        }))
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = self.with(&other, u64::saturating_add);
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.with(&other, u64::saturating_sub)
    }
}

/// What one server has seen in a moment.
#[derive(Clone, Debug, Default)]
pub struct StatsBatch {
    /// The server's number, and the page's among those of that server.
    pub server: u64,
    pub number: u64,
    /// When, in seconds since 1970.
    pub now: i64,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// When it began, in seconds since 1970.
    pub began: i64,
    pub counts: Counts,
    /// Different sessions, nearly exact; `None`: nobody knows.
    pub sessions: Option<u64>,
}

/// What happened in the last hour by minutes, the last day by hours, the last month by days; the
/// oldest first.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub minutes: Vec<Bucket>,
    pub hours: Vec<Bucket>,
    pub days: Vec<Bucket>,
}
