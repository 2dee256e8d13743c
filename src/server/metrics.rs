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
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::net::TcpListener;

use crate::{
    app::{live::PATH as LIVE, router::Route as Page},
    console,
    visitor::Sessions,
};
use tally_session::metrics::seconds;

/// What Prometheus wants to be told of the text.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
        let pages = Page::ALL.iter().map(|page| page.path());
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
            None if console::is_path(path) => console::document::PATH,
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
    sessions: Arc<Sessions>,
}

/// Serves the numbers at `/metrics` for as long as the server runs.
pub async fn serve(listener: TcpListener, metrics: Metrics, sessions: Arc<Sessions>) {
    let mut registry = Registry::with_prefix("tally");
    metrics.register(&mut registry);
    sessions.metrics().register(&mut registry);
    let shown = Arc::new(Shown { registry, sessions });
    let routes = Router::new().route("/metrics", get(show)).with_state(shown);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the metrics are no longer served");
    }
}

async fn show(State(shown): State<Arc<Shown>>) -> Response {
    let streams = shown.sessions.live().pages();
    let streams = i64::try_from(streams).unwrap_or(i64::MAX);
    shown.sessions.metrics().live_streams.set(streams);
    let log = shown.sessions.store_log_bytes().unwrap_or(0);
    let log = i64::try_from(log).unwrap_or(i64::MAX);
    shown.sessions.metrics().store_log_bytes.set(log);
    let mut text = String::new();
    match encode(&mut text, &shown.registry) {
        Ok(()) => ([(CONTENT_TYPE, TEXT)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
