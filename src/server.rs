//! The server: routes and layers in their order, listening, and draining.
//!
//! A request passes: limits and time-outs → security headers → same-origin check → session layer
//! → the page's state → page or server function.

pub mod assets;
pub mod forms;
pub mod headers;
pub mod maintenance;
pub mod origin;
pub mod pages;
pub mod settings;

use std::{
    future::{Future, IntoFuture},
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    http::{Request, StatusCode},
    middleware::{from_fn, from_fn_with_state},
    response::Redirect,
    routing::{any, get},
};
use leptos::prelude::{LeptosOptions, provide_context, use_context};
use leptos_axum::{ErrorHandler, LeptosRoutes, generate_route_list};
use thiserror::Error;
use tokio::{net::TcpListener, sync::Notify};
use tower_http::{
    catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer, timeout::TimeoutLayer,
};

use crate::{
    app::{App, PageState, shell},
    session::{
        SessionError, Sessions,
        layer::session_layer,
        store::{self, StoreError},
    },
};
use settings::Settings;

/// How often expired sessions are removed.
const CLEAR_INTERVAL: Duration = Duration::from_secs(60);

/// Why the server did not start or stopped, in one line.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error("can't listen on {address}: {reason}")]
    Listen {
        address: SocketAddr,
        reason: io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the server stopped: {0}")]
    Io(#[from] io::Error),
}

/// Serves until SIGTERM or SIGINT, then lets open requests finish. `extra` are routes of your own
/// inside the session layer, beside the pages.
///
/// # Errors
/// When the address is taken or the store can't be reached.
pub fn serve(settings: Settings, extra: Router<LeptosOptions>) -> Result<(), ServeError> {
    log_to_stderr(&settings.log);
    runtime()?.block_on(start(settings, extra))
}

/// The runtime of the server and of the commands.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

fn log_to_stderr(level: &str) {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(level)
        .init();
}

/// Removes expired sessions from engines that don't do so by themselves.
async fn clear_now_and_then(sessions: Arc<Sessions>) {
    let mut turns = tokio::time::interval(CLEAR_INTERVAL);
    loop {
        turns.tick().await;
        if let Err(error) = sessions.clear_expired(|_| ()).await {
            tracing::warn!(%error, "expired sessions could not be removed");
        }
    }
}

async fn start(settings: Settings, extra: Router<LeptosOptions>) -> Result<(), ServeError> {
    let listener = TcpListener::bind(settings.address)
        .await
        .map_err(|reason| ServeError::Listen {
            address: settings.address,
            reason,
        })?;
    let store = store::open(&settings.sessions.store).await?;
    announce(listener.local_addr()?, &settings);
    let sessions = Arc::new(Sessions::new(settings.sessions.clone(), store)?);
    tokio::spawn(clear_now_and_then(Arc::clone(&sessions)));
    let stop = stop_signal()?;
    let router = router(&settings, Arc::clone(&sessions), extra);
    let served = run(listener, router, stop, settings.drain_timeout).await;
    sessions.close().await;
    served
}

/// Says where the site is and what keeps its sessions. Nobody may be listening, which is no
/// reason to stop.
fn announce(address: SocketAddr, settings: &Settings) {
    let store = &settings.sessions.store;
    let _ = writeln!(
        io::stdout(),
        "sessions: {store}\nTally serves http://{address}"
    );
}

/// Serves `router` until `stop` is ready; then open requests get `drain` seconds to finish.
///
/// # Errors
/// When the listener fails.
pub async fn run(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
    drain: u64,
) -> Result<(), ServeError> {
    let stopping = Arc::new(Notify::new());
    let told = Arc::clone(&stopping);
    let serving = axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            stop.await;
            told.notify_one();
        })
        .into_future();
    let drained = async {
        stopping.notified().await;
        tokio::time::sleep(Duration::from_secs(drain)).await;
    };
    tokio::select! {
        served = serving => served?,
        () = drained => tracing::warn!("requests were still open after {drain} s"),
    }
    Ok(())
}

/// Ready at SIGTERM (service managers) or SIGINT (a terminal, cargo-leptos).
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Every route and layer.
pub fn router(
    settings: &Settings,
    sessions: Arc<Sessions>,
    extra: Router<LeptosOptions>,
) -> Router {
    let options = LeptosOptions::builder()
        .output_name(env!("LEPTOS_OUTPUT_NAME"))
        .site_addr(settings.address)
        .build();
    let (asset_routes, names) = assets::routes();
    let context = move || {
        provide_context(names.clone());
        headers::provide_policy();
        provide_page_state();
    };
    let not_found = ErrorHandler::new_with_context(context.clone(), shell, options.clone());
    let pages = Router::new()
        .leptos_routes_with_context(&options, generate_route_list(App), context, {
            let options = options.clone();
            move || shell(options.clone())
        })
        .route("/about/", any(|| async { Redirect::permanent("/about") }))
        .route("/reset/", any(|| async { Redirect::permanent("/reset") }))
        .merge(extra)
        .fallback_service(not_found)
        .layer(from_fn(pages::load_page))
        .layer(from_fn(forms::answer_forms))
        .layer(CatchPanicLayer::new())
        .layer(from_fn_with_state(sessions, session_layer))
        .layer(from_fn_with_state(
            Arc::new(settings.trusted_origins.clone()),
            origin::same_origin,
        ))
        .with_state(options);
    Router::new()
        .merge(pages)
        .merge(asset_routes)
        .route("/health", get(|| async { "ok" }))
        .layer(from_fn_with_state(
            Arc::new(settings.allowed_hosts.clone()),
            origin::allowed_host,
        ))
        .layer(from_fn_with_state(
            settings.hsts_age,
            headers::security_headers,
        ))
        .layer(RequestBodyLimitLayer::new(settings.body_limit))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            Duration::from_secs(settings.request_timeout),
        ))
        .layer(CatchPanicLayer::new())
}

/// Hands the state that `pages::load_page` found to the page that is rendered.
fn provide_page_state() {
    let state = use_context::<axum::http::request::Parts>()
        .and_then(|parts| parts.extensions.get::<PageState>().copied())
        .unwrap_or(PageState::Plain);
    if state == PageState::Unavailable
        && let Some(options) = use_context::<leptos_axum::ResponseOptions>()
    {
        options.set_status(StatusCode::SERVICE_UNAVAILABLE);
        headers::retry_later(&options);
    }
    provide_context(state);
}

/// Prefetches and previews: the visitor may never see the page.
pub(crate) fn is_prefetch<T>(request: &Request<T>) -> bool {
    ["sec-purpose", "purpose"].iter().any(|name| {
        request
            .headers()
            .get(*name)
            .is_some_and(|value| value.as_bytes().starts_with(b"prefetch"))
    })
}

#[cfg(test)]
mod tests {
    use leptos_router::SsrMode;

    use super::*;

    #[test]
    fn every_route_is_rendered_whole_before_its_head_goes_out() {
        let routes = generate_route_list(App);
        assert_eq!(routes.len(), 3);
        for route in routes {
            assert_eq!(route.mode(), &SsrMode::Async, "{}", route.path());
        }
    }
}
