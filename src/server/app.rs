//! The app: its routes, and the layers around them in the order in which a request passes through them.

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

/// Builds the app.
///
/// `draining` becomes true when the server receives a signal to stop. `extra` has additional routes, which are inside
/// all layers.
pub fn app(
    settings: &Arc<Settings>,
    sessions: &Sessions,
    metrics: &Arc<Metrics>,
    draining: &Arc<AtomicBool>,
    extra: Router,
) -> impl Inner + 'static {
    let trusted = &settings.trusted_proxies;
    let handler_limit = Duration::from_secs(settings.request_timeout);
    let layers = ServiceBuilder::new()
        .map_request(address::identify(trusted))
        .map_request(request_id::assign(trusted))
        .layer(middleware(Arc::clone(metrics), log::requests))
        .map_response(close_when_draining(draining))
        .layer(middleware(settings.hsts_age, headers::secure))
        .layer(middleware(Arc::clone(settings), limits::buffer))
        .layer(middleware(Arc::clone(settings), origin::check))
        .layer(sessions.layer())
        // Inside the session layer, which rolls back the changes of a handler that fails.
        .layer(middleware(handler_limit, limits::contain));
    // `Router::layer` would wrap each route, and each layer clones the service inside it for each request. So wrap the
    // whole router instead.
    layers.service(routes(settings, sessions, draining).merge(extra))
}

fn routes(settings: &Settings, sessions: &Sessions, draining: &Arc<AtomicBool>) -> Router {
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
        .merge(health::routes(sessions.clone(), Arc::clone(draining)))
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
        // To provide your own context, such as a connection pool, use `handle_server_fns_with_context`.
        routes.route(path, on(filter, handle_server_fns))
    })
}

/// The options of the reload script under `cargo leptos watch`, which sets these variables.
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

/// Closes connections after each response while the server is draining, so that clients reconnect to another server.
fn close_when_draining(
    draining: &Arc<AtomicBool>,
) -> impl Fn(Response) -> Response + Clone + use<> {
    let draining = Arc::clone(draining);
    move |mut response| {
        if draining.load(Ordering::Relaxed) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }
}
