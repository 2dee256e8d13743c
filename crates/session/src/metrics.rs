//! What the sessions count, for the operator. Nothing here names a visitor.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Counters since the start, shared by all requests.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Sessions made.
    pub created: Counter,
    /// Sessions deleted by their visitors.
    pub flushed: Counter,
    /// Sessions deleted by the operator.
    pub revoked: Counter,
    /// Sessions that had expired when they were removed, where the engine leaves that to us or keeps
    /// a list of them.
    pub expired: Counter,
    /// Visits counted, by answers that succeeded.
    pub visits: Counter,
    /// Sessions that were not made, because their address had made too many.
    pub refused: Counter,
    /// Saves that another server came before.
    pub conflicts: Counter,
    /// Saves whose connection broke, and that were sent again.
    pub retries: Counter,
    /// Records that could not be decoded.
    pub undecodable: Counter,
    /// Failed answers whose changes were taken back.
    pub rolled_back: Counter,
    /// Store operations that failed.
    pub store_errors: Counter,
    /// Store operations, and the microseconds that they took together: what the histograms below
    /// know, too, but don't tell this process.
    pub store_operations: Counter,
    pub store_microseconds: Counter,
    /// How long the store takes, in seconds, by operation.
    pub store_seconds: Family<Operation, Histogram>,
    /// Open pages that are told of changes.
    pub live_streams: Gauge,
    /// The size of the write-ahead log in bytes, where the engine has one.
    pub store_log_bytes: Gauge,
}

/// What the store is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Operation {
    pub operation: &'static str,
}

/// Upper bounds in seconds: a store on the same network answers within the first ones, and gives up
/// within the last.
const BUCKETS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// A histogram of times from a quarter of a millisecond to five seconds.
pub fn seconds() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            created: Counter::default(),
            flushed: Counter::default(),
            revoked: Counter::default(),
            expired: Counter::default(),
            visits: Counter::default(),
            refused: Counter::default(),
            conflicts: Counter::default(),
            retries: Counter::default(),
            undecodable: Counter::default(),
            rolled_back: Counter::default(),
            store_errors: Counter::default(),
            store_operations: Counter::default(),
            store_microseconds: Counter::default(),
            store_seconds: Family::new_with_constructor(seconds),
            live_streams: Gauge::default(),
            store_log_bytes: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Gives each its name and its help.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("created", "Sessions made", &self.created),
            (
                "flushed",
                "Sessions deleted by their visitors",
                &self.flushed,
            ),
            ("revoked", "Sessions deleted by the operator", &self.revoked),
            (
                "expired",
                "Expired sessions that were removed",
                &self.expired,
            ),
            ("visits", "Visits counted", &self.visits),
            (
                "refused",
                "Sessions not made, because their address had made too many",
                &self.refused,
            ),
            (
                "conflicts",
                "Saves that another server came before",
                &self.conflicts,
            ),
            (
                "retries",
                "Saves whose connection broke, and that were sent again",
                &self.retries,
            ),
            (
                "undecodable",
                "Records that could not be decoded",
                &self.undecodable,
            ),
            (
                "rolled_back",
                "Failed answers whose changes were taken back",
                &self.rolled_back,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("sessions_{name}"), help, counter.clone());
        }
        registry.register(
            "store_errors",
            "Store operations that failed",
            self.store_errors.clone(),
        );
        registry.register(
            "store_seconds",
            "How long the store takes",
            self.store_seconds.clone(),
        );
        registry.register(
            "store_log_bytes",
            "The size of SQLite's write-ahead log",
            self.store_log_bytes.clone(),
        );
        registry.register(
            "live_streams",
            "Open pages that are told of changes",
            self.live_streams.clone(),
        );
    }
}
