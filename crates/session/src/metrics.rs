//! Counters of this process, for the operator. Nothing here identifies a client.
//!
//! With the feature `metrics`, the same numbers also go to the [`metrics`](https://docs.rs/metrics) facade, as
//! `tally_sessions_created_total` and so on. Install its recorder before you create the manager.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::SessionState;

/// The upper bounds of the histogram's buckets, in seconds. A store on the same network responds within the first few
/// bounds, and times out within the last.
const BUCKETS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// The numbers that this process has counted since it created its [`SessionManager`](crate::SessionManager).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Metrics {
    /// Sessions created.
    pub created: u64,
    /// Sessions deleted by [`Session::flush`](crate::Session::flush).
    pub flushed: u64,
    /// Sessions ended by an operator or by their users.
    pub revoked: u64,
    /// Expired sessions that were removed. A store that removes records on its own has none, unless it keeps an index
    /// of sessions.
    pub expired: u64,
    /// Changes saved by requests whose responses succeeded.
    pub changes: u64,
    /// The application's own counters by name, in the order of
    /// [`SessionState::COUNTERS`](crate::SessionState::COUNTERS). Only successful responses count.
    pub counters: Vec<(&'static str, u64)>,
    /// Sessions not created because their address had reached its limit.
    pub rate_limited: u64,
    /// Saves that conflicted with another server's and were retried.
    pub conflicts: u64,
    /// Saves that were sent again after their connection broke.
    pub retries: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Requests whose changes were rolled back, because the response failed.
    pub rolled_back: u64,
    /// Store operations that failed.
    pub store_errors: u64,
    /// Current subscribers.
    pub subscribers: u64,
    /// The size of the store's write-ahead log in bytes, if it has one.
    pub store_log_bytes: Option<u64>,
    /// The duration of store operations.
    pub store_times: Vec<StoreTimes>,
}

/// A histogram of the duration of one kind of store operation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreTimes {
    /// `create`, `save`, `load` or `delete`.
    pub operation: &'static str,
    /// The number of operations.
    pub count: u64,
    /// Their total duration, in seconds.
    pub seconds: f64,
    /// The buckets: each upper bound in seconds, and the number of operations above the bound before and up to this
    /// one. The last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
}

/// A counter that only increases.
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

    /// One of the application's own counters.
    fn of_application(counter: &'static str) -> Self {
        const NAME: &str = "tally_sessions_counted_total";
        #[cfg(feature = "metrics")]
        ::metrics::describe_counter!(NAME, "The application's own counters");
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

/// The durations of one kind of store operation.
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
            "Duration of session store operations"
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
        let index = BUCKETS.partition_point(|bound| *bound < seconds);
        self.buckets[index].fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        self.facade.record(seconds);
    }

    /// The number of operations, and their total duration in microseconds.
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

/// The counts of one request, which take effect if its response succeeds.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    changes: u64,
    /// The increase of each of the application's counters.
    counters: Vec<u64>,
}

impl Counted {
    /// Counts a saved change.
    pub fn add<S: SessionState>(&mut self, before: &S, after: &S) {
        self.changes += 1;
        self.counters.resize(S::COUNTERS.len(), 0);
        for (sum, counter) in self.counters.iter_mut().zip(S::COUNTERS) {
            *sum += counter.added(before, after);
        }
    }
}

/// The counters of this process.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub created: Counter,
    pub flushed: Counter,
    pub revoked: Counter,
    pub expired: Counter,
    pub changes: Counter,
    /// The application's own counters.
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
    /// Creates the counters, all at 0. `counters`: the names of the application's own.
    pub fn new(counters: &[&'static str]) -> Self {
        let own = |name: &&'static str| (*name, Counter::of_application(name));
        Self {
            created: Counter::new("tally_sessions_created_total", "Sessions created"),
            flushed: Counter::new(
                "tally_sessions_flushed_total",
                "Sessions deleted by their own requests",
            ),
            revoked: Counter::new(
                "tally_sessions_revoked_total",
                "Sessions ended by an operator or by their users",
            ),
            expired: Counter::new(
                "tally_sessions_expired_total",
                "Expired sessions that were removed",
            ),
            changes: Counter::new("tally_sessions_changes_total", "Changes saved"),
            counters: counters.iter().map(own).collect(),
            rate_limited: Counter::new(
                "tally_sessions_rate_limited_total",
                "Sessions not created because their address had reached its limit",
            ),
            conflicts: Counter::new(
                "tally_sessions_conflicts_total",
                "Saves that conflicted with another server's and were retried",
            ),
            retries: Counter::new(
                "tally_sessions_retries_total",
                "Saves that were sent again after their connection broke",
            ),
            undecodable: Counter::new(
                "tally_sessions_undecodable_total",
                "Records that could not be decoded",
            ),
            rolled_back: Counter::new(
                "tally_sessions_rolled_back_total",
                "Requests whose changes were rolled back, because the response failed",
            ),
            store_errors: Counter::new("tally_store_errors_total", "Store operations that failed"),
            create: Times::new("create"),
            save: Times::new("save"),
            load: Times::new("load"),
            delete: Times::new("delete"),
        }
    }

    /// Adds the counts of a request.
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

    /// The number of all store operations, and their total duration in microseconds.
    pub fn store_totals(&self) -> (u64, u64) {
        let totals = self.times().map(Times::totals);
        let sum = |part: fn(&(u64, u64)) -> u64| totals.iter().map(part).sum();
        (sum(|totals| totals.0), sum(|totals| totals.1))
    }

    /// The current numbers, except for those that are not counted here.
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
    fn a_duration_counts_in_the_first_bucket_whose_bound_it_does_not_exceed() {
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
