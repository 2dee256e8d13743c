//! Counters of this process, for the operator. Nothing here names a client.
//!
//! With the feature `metrics` the same numbers go to the [`metrics`](https://docs.rs/metrics) facade, too, as
//! `tally_sessions_created_total` and so on. Install its recorder before the manager is made.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::SessionState;

/// Upper bounds in seconds: a store on the same network responds within the first ones, and gives up within the
/// last.
const BUCKETS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// What this process has counted since it made its [`SessionManager`](crate::SessionManager).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Metrics {
    /// Sessions made.
    pub created: u64,
    /// Sessions deleted by [`Session::flush`](crate::Session::flush).
    pub flushed: u64,
    /// Sessions deleted by an operator.
    pub revoked: u64,
    /// Sessions that had expired when they were removed, where the engine leaves that to this crate or keeps an
    /// index of them.
    pub expired: u64,
    /// Changes saved, by responses that succeeded.
    pub changes: u64,
    /// The application's own counters by name, as [`SessionState::COUNTERS`](crate::SessionState::COUNTERS) has them:
    /// what responses that succeeded have added.
    pub counters: Vec<(&'static str, u64)>,
    /// Sessions that were not made, because their address had made too many.
    pub rate_limited: u64,
    /// Saves that lost against another server, and were made again.
    pub conflicts: u64,
    /// Saves whose connection broke, and that were sent again.
    pub retries: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Failed responses whose changes were taken back.
    pub rolled_back: u64,
    /// Store operations that failed.
    pub store_errors: u64,
    /// Subscribers right now.
    pub subscribers: u64,
    /// The size of the engine's write-ahead log in bytes, where it has one.
    pub store_log_bytes: Option<u64>,
    /// How long the store takes, by operation.
    pub store_times: Vec<StoreTimes>,
}

/// How long one kind of store operation takes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreTimes {
    /// `create`, `save`, `load` or `delete`.
    pub operation: &'static str,
    /// How many there were.
    pub count: u64,
    /// How long they took together, in seconds.
    pub seconds: f64,
    /// Upper bounds in seconds, and how many operations took at most so long, but longer than the bound before.
    /// The last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
}

/// A counter that only rises.
#[derive(Debug)]
pub(crate) struct Counter {
    value: AtomicU64,
    #[cfg(feature = "metrics")]
    facade: ::metrics::Counter,
}

impl Counter {
    fn new(name: &'static str, help: &'static str) -> Self {
        #[cfg(feature = "metrics")]
        ::metrics::describe_counter!(name, help);
        #[cfg(not(feature = "metrics"))]
        let _ = (name, help);
        Self {
            value: AtomicU64::new(0),
            #[cfg(feature = "metrics")]
            facade: ::metrics::counter!(name),
        }
    }

    /// One of the application's own.
    fn of_application(counter: &'static str) -> Self {
        const NAME: &str = "tally_sessions_counted_total";
        #[cfg(feature = "metrics")]
        ::metrics::describe_counter!(NAME, "What the application counts");
        #[cfg(not(feature = "metrics"))]
        let _ = (NAME, counter);
        Self {
            value: AtomicU64::new(0),
            #[cfg(feature = "metrics")]
            facade: ::metrics::counter!(NAME, "counter" => counter),
        }
    }

    pub fn inc(&self) {
        self.inc_by(1);
    }

    pub fn inc_by(&self, number: u64) {
        self.value.fetch_add(number, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        self.facade.increment(number);
    }

    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// The times of one kind of store operation.
#[derive(Debug)]
pub(crate) struct Times {
    operation: &'static str,
    buckets: [AtomicU64; BUCKETS.len() + 1],
    microseconds: AtomicU64,
    #[cfg(feature = "metrics")]
    facade: ::metrics::Histogram,
}

impl Times {
    fn new(operation: &'static str) -> Self {
        #[cfg(feature = "metrics")]
        ::metrics::describe_histogram!(
            "tally_store_seconds",
            ::metrics::Unit::Seconds,
            "How long the session store takes"
        );
        Self {
            operation,
            buckets: Default::default(),
            microseconds: AtomicU64::new(0),
            #[cfg(feature = "metrics")]
            facade: ::metrics::histogram!("tally_store_seconds", "operation" => operation),
        }
    }

    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = BUCKETS.partition_point(|bound| *bound < seconds);
        self.buckets[place].fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        self.facade.record(seconds);
    }

    /// How many there were, and the microseconds that they took together.
    fn totals(&self) -> (u64, u64) {
        let counts = self.buckets.iter();
        let count = counts.map(|count| count.load(Ordering::Relaxed)).sum();
        (count, self.microseconds.load(Ordering::Relaxed))
    }

    fn snapshot(&self) -> StoreTimes {
        let (count, microseconds) = self.totals();
        let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
        let counts = self.buckets.iter();
        StoreTimes {
            operation: self.operation,
            count,
            seconds: Duration::from_micros(microseconds).as_secs_f64(),
            buckets: bounds
                .zip(counts.map(|count| count.load(Ordering::Relaxed)))
                .collect(),
        }
    }
}

/// What one request has changed.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    changes: u64,
    /// By how much each of the application's counters rises.
    counters: Vec<u64>,
}

impl Counted {
    /// Adds a change from `before` to `after` that was saved.
    pub fn add<S: SessionState>(&mut self, before: &S, after: &S) {
        self.changes += 1;
        self.counters.resize(S::COUNTERS.len(), 0);
        for (sum, counter) in self.counters.iter_mut().zip(S::COUNTERS) {
            *sum += counter.added(before, after);
        }
    }
}

/// Counts for all requests of this process.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub created: Counter,
    pub flushed: Counter,
    pub revoked: Counter,
    pub expired: Counter,
    pub changes: Counter,
    /// The application's own.
    counters: Vec<(&'static str, Counter)>,
    pub rate_limited: Counter,
    pub conflicts: Counter,
    pub retries: Counter,
    pub undecodable: Counter,
    pub rolled_back: Counter,
    pub store_errors: Counter,
    pub create: Times,
    pub save: Times,
    pub load: Times,
    pub delete: Times,
}

impl Recorder {
    /// Nothing is counted yet. `counters`: the names of the application's own.
    pub fn new(counters: &[&'static str]) -> Self {
        let own = |name: &&'static str| (*name, Counter::of_application(name));
        Self {
            created: Counter::new("tally_sessions_created_total", "Sessions made"),
            flushed: Counter::new(
                "tally_sessions_flushed_total",
                "Sessions deleted by their own requests",
            ),
            revoked: Counter::new(
                "tally_sessions_revoked_total",
                "Sessions deleted by an operator",
            ),
            expired: Counter::new(
                "tally_sessions_expired_total",
                "Expired sessions that were removed",
            ),
            changes: Counter::new("tally_sessions_changes_total", "Changes saved"),
            counters: counters.iter().map(own).collect(),
            rate_limited: Counter::new(
                "tally_sessions_rate_limited_total",
                "Sessions not made, because their address had made too many",
            ),
            conflicts: Counter::new(
                "tally_sessions_conflicts_total",
                "Saves that lost against another server, and were made again",
            ),
            retries: Counter::new(
                "tally_sessions_retries_total",
                "Saves whose connection broke, and that were sent again",
            ),
            undecodable: Counter::new(
                "tally_sessions_undecodable_total",
                "Records that could not be decoded",
            ),
            rolled_back: Counter::new(
                "tally_sessions_rolled_back_total",
                "Failed responses whose changes were taken back",
            ),
            store_errors: Counter::new("tally_store_errors_total", "Store operations that failed"),
            create: Times::new("create"),
            save: Times::new("save"),
            load: Times::new("load"),
            delete: Times::new("delete"),
        }
    }

    /// Counts what a request has changed.
    pub fn add(&self, counted: &Counted) {
        self.changes.inc_by(counted.changes);
        for ((_, counter), added) in self.counters.iter().zip(&counted.counters) {
            counter.inc_by(*added);
        }
    }

    /// The application's own counters.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counters = self.counters.iter();
        counters.map(|(name, counter)| (*name, counter.get()))
    }

    fn times(&self) -> [&Times; 4] {
        [&self.create, &self.save, &self.load, &self.delete]
    }

    /// Store operations, and the microseconds that they took together.
    pub fn store_totals(&self) -> (u64, u64) {
        let totals = self.times().map(Times::totals);
        let sum = |part: fn(&(u64, u64)) -> u64| totals.iter().map(part).sum();
        (sum(|totals| totals.0), sum(|totals| totals.1))
    }

    /// Everything that was counted so far, without what is not counted here.
    pub fn snapshot(&self) -> Metrics {
        Metrics {
            created: self.created.get(),
            flushed: self.flushed.get(),
            revoked: self.revoked.get(),
            expired: self.expired.get(),
            changes: self.changes.get(),
            counters: self.counters().collect(),
            rate_limited: self.rate_limited.get(),
            conflicts: self.conflicts.get(),
            retries: self.retries.get(),
            undecodable: self.undecodable.get(),
            rolled_back: self.rolled_back.get(),
            store_errors: self.store_errors.get(),
            subscribers: 0,
            store_log_bytes: None,
            store_times: self.times().map(Times::snapshot).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        let recorder = Recorder::new(&[]);
        for microseconds in [250, 251, 4_000, 6_000_000] {
            recorder.load.observe(Duration::from_micros(microseconds));
        }
        let metrics = recorder.snapshot();
        let load = &metrics.store_times[2];
        assert_eq!((load.operation, load.count), ("load", 4));
        let filled = load.buckets.iter().filter(|(_, count)| *count > 0);
        let bounds: Vec<f64> = filled.map(|(bound, _)| *bound).collect();
        assert_eq!(bounds, [0.000_25, 0.000_5, 0.005, f64::INFINITY]);
        assert_eq!(recorder.store_totals(), (4, 6_004_501));
    }
}
