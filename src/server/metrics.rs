//! Metrics for Prometheus.
//!
//! They are served at an address of their own, loopback by default, so that visitors can't see them. They contain no id
//! and no value of a session, and no address of a client.

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

/// The content type of the OpenMetrics text format.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The upper bounds of the histogram buckets, in seconds.
const BUCKETS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];

fn seconds() -> Histogram {
    Histogram::new(BUCKETS)
}

/// The metrics of requests and connections.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram>,
    /// The number of open connections.
    pub connections: Gauge,
    routes: Arc<[&'static str]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
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
    /// The route label of a path.
    ///
    /// Clients can request any path, so paths without a route of their own share a few labels.
    pub fn route(&self, path: &str) -> &'static str {
        let route = self.routes.iter().find(|route| **route == path);
        match route {
            Some(route) => route,
            None if console::is_path(path) => console::PATH,
            None if path.starts_with("/pkg/") => "file",
            None => "other",
        }
    }

    /// Records a response.
    pub fn record(&self, route: &'static str, status: StatusCode, duration: Duration) {
        let labels = RequestLabels {
            route,
            status: status.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
        let labels = RouteLabels { route };
        let seconds = self.request_seconds.get_or_create(&labels);
        seconds.observe(duration.as_secs_f64());
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests completed", self.requests.clone());
        registry.register(
            "request_seconds",
            "Time until the head of the response",
            self.request_seconds.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
    }
}

/// Collects the metrics of the session manager for each scrape.
#[derive(Debug)]
struct SessionCollector(Sessions);

impl Collector for SessionCollector {
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
                "Open event streams of pages",
                metrics.subscribers,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(encoder)?;
        }
        let help = "Duration of store operations";
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

/// The counters of the session manager, each with its name and help text.
fn counters(metrics: &SessionMetrics) -> [(&'static str, &'static str, u64); 12] {
    let visits = metrics.counters.iter().find(|(name, _)| *name == VISITS);
    let visits = visits.map_or(0, |(_, count)| *count);
    [
        ("sessions_created", "Sessions created", metrics.created),
        (
            "sessions_flushed",
            "Sessions deleted by their visitors",
            metrics.flushed,
        ),
        (
            "sessions_revoked",
            "Sessions ended by the operator, or by their user in another session",
            metrics.revoked,
        ),
        (
            "sessions_expired",
            "Expired sessions removed",
            metrics.expired,
        ),
        ("sessions_changes", "Changes saved", metrics.changes),
        ("sessions_visits", "Visits counted", visits),
        (
            "sessions_refused",
            "New sessions refused because of the rate limit",
            metrics.rate_limited,
        ),
        (
            "sessions_conflicts",
            "Saves that conflicted with another server",
            metrics.conflicts,
        ),
        (
            "sessions_retries",
            "Saves sent again after a connection failure",
            metrics.retries,
        ),
        (
            "sessions_undecodable",
            "Records that could not be decoded",
            metrics.undecodable,
        ),
        (
            "sessions_rolled_back",
            "Failed responses whose changes were rolled back",
            metrics.rolled_back,
        ),
        (
            "store_errors",
            "Store operations that failed",
            metrics.store_errors,
        ),
    ]
}

/// Serves `/metrics` until the process ends.
pub async fn serve(listener: TcpListener, metrics: &Metrics, sessions: Sessions) {
    let mut registry = Registry::with_prefix("tally");
    metrics.register(&mut registry);
    registry.register_collector(Box::new(SessionCollector(sessions)));
    let routes = Router::new()
        .route("/metrics", get(scrape))
        .with_state(Arc::new(registry));
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the metrics server has failed");
    }
}

async fn scrape(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
