//! What the server counts, for Prometheus: at an address of its own, loopback by default, so that
//! visitors never see it. No id, no address and no value of a session is in it.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use leptos::server_fn::axum::server_fn_paths;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};
use tokio::net::TcpListener;

use super::console;
use crate::{islands::live::PATH as LIVE, pages, visitor::Sessions, visitor::VISITS};
use tally_session::Metrics as SessionMetrics;

/// What Prometheus wants to be told of the text.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds, from a quarter of a millisecond to five seconds.
const BUCKETS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];

fn seconds() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Requests by where they went and how they were answered.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<Answered, Counter>,
    request_seconds: Family<Routed, Histogram>,
    /// Open connections.
    pub connections: Gauge,
    routes: Arc<[&'static str]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Routed {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: &'static str,
    status: u16,
}

impl Default for Metrics {
    fn default() -> Self {
        let pages = pages::LINKS.map(|(_, path)| path).into_iter();
        let calls = server_fn_paths().map(|(path, _)| path);
        let others = [LIVE, "/health", "/health/live", "/health/ready"];
        Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            connections: Gauge::default(),
            routes: pages.chain(calls).chain(others).collect(),
        }
    }
}

impl Metrics {
    /// The label of a path: visitors may ask for any, so all that the site has no page, call or
    /// stream for have two labels between them.
    pub fn route(&self, path: &str) -> &'static str {
        let known = self.routes.iter().find(|route| **route == path);
        match known {
            Some(route) => route,
            None if console::is_path(path) => console::PATH,
            None if path.starts_with("/pkg/") => "file",
            None => "other",
        }
    }

    /// Writes down an answer.
    pub fn answered(&self, route: &'static str, status: StatusCode, took: Duration) {
        let answered = Answered {
            route,
            status: status.as_u16(),
        };
        self.requests.get_or_create(&answered).inc();
        let routed = Routed { route };
        let seconds = self.request_seconds.get_or_create(&routed);
        seconds.observe(took.as_secs_f64());
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests answered", self.requests.clone());
        registry.register(
            "request_seconds",
            "How long answers take, to their head",
            self.request_seconds.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
    }
}

/// What Prometheus is shown.
struct Shown {
    registry: Registry,
}

/// What the sessions count, read anew for each scrape.
#[derive(Debug)]
struct SessionCounts(Sessions);

impl Collector for SessionCounts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let metrics = self.0.metrics();
        for (name, help, value) in counters(&metrics) {
            let counter = ConstCounter::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(encoder)?;
        }
        let log = metrics.store_log_bytes.unwrap_or(0);
        for (name, help, value) in [
            (
                "store_log_bytes",
                "The size of SQLite's write-ahead log",
                log,
            ),
            (
                "live_streams",
                "Open pages that are told of changes",
                metrics.subscribers,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(encoder)?;
        }
        let help = "How long the store takes";
        let mut times =
            encoder.encode_descriptor("store_seconds", help, None, MetricType::Histogram)?;
        for operation in &metrics.store_times {
            let labels = [("operation", operation.operation)];
            let mut encoder = times.encode_family(&labels)?;
            let (sum, count) = (operation.seconds, operation.count);
            encoder.encode_histogram::<NoLabelSet>(sum, count, &operation.buckets, None)?;
        }
        Ok(())
    }
}

/// Each counter with its name and its help.
fn counters(metrics: &SessionMetrics) -> [(&'static str, &'static str, u64); 12] {
    let visits = metrics.counters.iter().find(|(name, _)| *name == VISITS);
    let visits = visits.map_or(0, |(_, count)| *count);
    [
        ("sessions_created", "Sessions made", metrics.created),
        (
            "sessions_flushed",
            "Sessions deleted by their visitors",
            metrics.flushed,
        ),
        (
            "sessions_revoked",
            "Sessions deleted by the operator",
            metrics.revoked,
        ),
        (
            "sessions_expired",
            "Expired sessions that were removed",
            metrics.expired,
        ),
        ("sessions_changes", "Changes saved", metrics.changes),
        ("sessions_visits", "Visits counted", visits),
        (
            "sessions_refused",
            "Sessions not made, because their address had made too many",
            metrics.rate_limited,
        ),
        (
            "sessions_conflicts",
            "Saves that another server came before",
            metrics.conflicts,
        ),
        (
            "sessions_retries",
            "Saves whose connection broke, and that were sent again",
            metrics.retries,
        ),
        (
            "sessions_undecodable",
            "Records that could not be decoded",
            metrics.undecodable,
        ),
        (
            "sessions_rolled_back",
            "Failed answers whose changes were taken back",
            metrics.rolled_back,
        ),
        (
            "store_errors",
            "Store operations that failed",
            metrics.store_errors,
        ),
    ]
}

/// Serves the numbers at `/metrics` for as long as the server runs.
pub async fn serve(listener: TcpListener, metrics: &Metrics, sessions: Sessions) {
    let mut registry = Registry::with_prefix("tally");
    metrics.register(&mut registry);
    registry.register_collector(Box::new(SessionCounts(sessions)));
    let shown = Arc::new(Shown { registry });
    let routes = Router::new().route("/metrics", get(show)).with_state(shown);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the metrics are no longer served");
    }
}

async fn show(State(shown): State<Arc<Shown>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &shown.registry) {
        Ok(()) => ([(CONTENT_TYPE, TEXT)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
