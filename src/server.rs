//! Starts the server, and stops it on a signal.
//!
//! [`app`] is an axum router with its routes and layers; [`connections`] serves it.

pub mod address;
pub mod app;
pub mod assets;
pub mod calls;
pub mod connections;
pub mod console;
pub mod forms;
pub mod headers;
pub mod health;
pub mod limits;
pub mod live;
pub mod log;
pub mod maintenance;
pub mod metrics;
pub mod middleware;
pub mod origin;
pub mod page;
pub mod request_id;
pub mod settings;

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use crate::visitor::Sessions;
use connections::Connections;
use metrics::Metrics;
use settings::Settings;
use tally_session::{
    ConnectError, SessionError,
    store::{self, StoreError},
};

/// The reason why the server or a command has failed.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error("can't listen on {address} ({setting}): {reason}")]
    Listen {
        setting: &'static str,
        address: SocketAddr,
        reason: io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sessions(#[from] ConnectError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("memory: keeps sessions inside the server, where no command reaches them")]
    OutOfReach,
    #[error(
        "these settings have no console (console.password_hash is empty); use the settings of the server"
    )]
    NoConsole,
    #[error("the server stopped: {0}")]
    Io(#[from] io::Error),
}

/// Runs the server until SIGTERM or SIGINT, then finishes open requests.
///
/// `extra` has additional routes, which are inside the session layer.
///
/// # Errors
/// Returns an error if the address is in use or the store can't be reached.
pub fn serve(settings: Settings, extra: Router) -> Result<(), ServeError> {
    log::start(&settings);
    runtime()?.block_on(start(settings, extra))
}

/// Builds the Tokio runtime of the server and the commands.
///
/// # Errors
/// Returns an error if the operating system can't create the threads.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

async fn start(settings: Settings, extra: Router) -> Result<(), ServeError> {
    let listener = listen("LEPTOS_SITE_ADDR", settings.address).await?;
    let metrics_listener = match settings.metrics {
        Some(address) => Some(listen("TALLY_METRICS", address).await?),
        None => None,
    };
    let store_wait = Duration::from_secs(settings.store_wait);
    let on_retry = |error: &StoreError| {
        tracing::warn!("{error}; trying again for {} s", settings.store_wait);
    };
    let store = store::open_with_retries(&settings.store, store_wait, on_retry).await?;
    // Handle signals before the announcement, because its reader may stop the server at once.
    let signals = Signals::new()?;
    announce(&listener, metrics_listener.as_ref(), &settings)?;
    let sessions = Sessions::new(store, settings.sessions.clone())?;
    sessions.start();
    let (settings, metrics) = (Arc::new(settings), Arc::new(Metrics::default()));
    let draining = Arc::<AtomicBool>::default();
    let app = app::app(&settings, &sessions, &metrics, &draining, extra);
    let connections = Connections {
        app,
        keep_alive: Duration::from_secs(settings.keep_alive_timeout),
        open: metrics.connections.clone(),
    };
    if let Some(listener) = metrics_listener {
        let sessions = sessions.clone();
        tokio::spawn(async move { metrics::serve(listener, &metrics, sessions).await });
    }
    let shutdown = shutdown_signal(signals, draining, sessions.clone(), settings.drain_delay);
    let drain_timeout = Duration::from_secs(settings.drain_timeout);
    connections.run(listener, shutdown, drain_timeout).await;
    sessions.close().await;
    Ok(())
}

async fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|reason| ServeError::Listen {
        setting,
        address,
        reason,
    })
}

/// Prints the store and the addresses of the site and its metrics. A closed standard output is not an error.
fn announce(
    site: &TcpListener,
    metrics: Option<&TcpListener>,
    settings: &Settings,
) -> io::Result<()> {
    let store = &settings.store.url;
    let metrics = match metrics {
        Some(listener) => format!("http://{}/metrics", listener.local_addr()?),
        None => "off".to_owned(),
    };
    let _ = writeln!(
        io::stdout(),
        "sessions: {store}\nTally serves http://{}\nmetrics: {metrics}",
        site.local_addr()?
    );
    Ok(())
}

/// A signal to stop the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// SIGTERM, sent by service managers.
    Terminate,
    /// SIGINT, sent by terminals and cargo-leptos.
    Interrupt,
}

/// Receives the signals to stop. Handles signals from its creation on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.interrupt.recv() => Stop::Interrupt,
        }
    }
}

/// Waits until the server should stop accepting connections.
///
/// After SIGTERM it waits for `delay` seconds, in which the load balancer notices that the server is no longer ready.
/// After SIGINT, or a second signal, it returns immediately.
async fn shutdown_signal(
    mut signals: Signals,
    draining: Arc<AtomicBool>,
    sessions: Sessions,
    delay: u64,
) {
    let stop = signals.next().await;
    draining.store(true, Ordering::Relaxed);
    if stop == Stop::Terminate {
        tokio::select! {
            () = sleep(Duration::from_secs(delay)) => {}
            _ = signals.next() => {}
        }
    }
    // The load balancer no longer sends requests here, so open pages reconnect to another server.
    sessions.close_subscriptions();
}
