//! The app: its routes, and the layers around them in the order in which a request meets them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderValue, header::CONNECTION},
    response::{Redirect, Response},
    routing::{MethodFilter, any, get, on},
};
use leptos::{prelude::LeptosOptions, server_fn::axum::server_fn_paths};
use leptos_axum::handle_server_fns;
use tower::{
    ServiceBuilder,
    util::{MapRequestLayer, MapResponseLayer},
};

use super::{
    address, assets, console, forms, headers, health, limits, live, log,
    metrics::Metrics,
    middleware::{Inner, middleware},
    origin,
    page::Renderer,
    request_id,
    settings::Settings,
};
use crate::{
    islands::live::PATH as LIVE,
    pages::{about, counter, not_found, reset},
    visitor::Sessions,
};

/// The app that the settings describe. `leaving` becomes true when the server receives a signal to stop; `extra` are routes of
/// your own, inside of all layers.
pub fn app(
    settings: &Arc<Settings>,
    sessions: &Sessions,
    metrics: &Arc<Metrics>,
    leaving: &Arc<AtomicBool>,
    extra: Router,
) -> impl Inner + 'static {
    let trusted = &settings.trusted_proxies;
    let handler_limit = Duration::from_secs(settings.request_timeout);
    let layers = ServiceBuilder::new()
        .map_request(address::identify(trusted))
        .map_request(request_id::assign(trusted))
        .layer(middleware(Arc::clone(metrics), log::requests))
        .map_response(closing_when(leaving))
        .layer(middleware(settings.hsts_age, headers::secure))
        .layer(middleware(Arc::clone(settings), limits::buffer))
        .layer(middleware(Arc::clone(settings), origin::check))
        .layer(sessions.layer())
        // Inside of the session layer, which takes back what a failed handler has changed.
        .layer(middleware(handler_limit, limits::contain));
    // Around the router, not around each of its routes, as `Router::layer` would: a layer clones what is inside of it.
    layers.service(routes(settings, sessions, leaving).merge(extra))
}

fn routes(settings: &Settings, sessions: &Sessions, leaving: &Arc<AtomicBool>) -> Router {
    let (files, names) = assets::routes();
    let console = console::routes(settings, sessions, &names);
    let renderer = Renderer {
        watched: watched(settings),
        assets: names,
    };
    pages()
        .layer(MapResponseLayer::new(renderer.responds()))
        .merge(calls().layer(middleware((), forms::redirect)))
        .merge(files.layer(MapRequestLayer::new(assets::lowercase_codings)))
        .merge(console)
        .merge(health::routes(sessions.clone(), Arc::clone(leaving)))
        .route(LIVE, get(live::stream))
}

fn pages() -> Router {
    Router::new()
        .route("/", get(counter::page))
        .route("/about", get(about::page))
        .route("/reset", get(reset::page))
        .route("/about/", any(|| async { Redirect::permanent("/about") }))
        .route("/reset/", any(|| async { Redirect::permanent("/reset") }))
        .fallback(not_found::page)
}

/// The server functions.
fn calls() -> Router {
    server_fn_paths().fold(Router::new(), |routes, (path, method)| {
        let filter = MethodFilter::try_from(method).unwrap_or(MethodFilter::POST);
        // A context of your own, such as a pool of connections: handle_server_fns_with_context.
        routes.route(path, on(filter, handle_server_fns))
    })
}

/// What reloads the page under `cargo leptos watch`, which sets these variables.
fn watched(settings: &Settings) -> Option<LeptosOptions> {
    std::env::var_os("LEPTOS_WATCH")?;
    let port = std::env::var("LEPTOS_RELOAD_PORT").ok()?.parse().ok()?;
    let options = LeptosOptions::builder()
        .output_name(env!("LEPTOS_OUTPUT_NAME"))
        .site_addr(settings.address)
        .reload_port(port)
        .build();
    Some(options)
}

/// A server that is stopping closes its connections after each response. The balancer sends the next request to another
/// server.
fn closing_when(leaving: &Arc<AtomicBool>) -> impl Fn(Response) -> Response + Clone + use<> {
    let leaving = Arc::clone(leaving);
    move |mut response| {
        if leaving.load(Ordering::Relaxed) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }
}
