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

/// Why the server did not start or stopped, in one line.
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
    #[error("memory: keeps sessions inside of the server, where no command reaches them")]
    OutOfReach,
    #[error("there is no console in these settings (console.password_hash): use the server's own")]
    NoConsole,
    #[error("the server stopped: {0}")]
    Io(#[from] io::Error),
}

/// Serves until SIGTERM or SIGINT, then lets open requests finish. `extra` are routes of your own
/// inside the session layer, beside the pages.
///
/// # Errors
/// When the address is taken or the store can't be reached.
pub fn serve(settings: Settings, extra: Router) -> Result<(), ServeError> {
    log::start(&settings);
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

async fn start(settings: Settings, extra: Router) -> Result<(), ServeError> {
    let listener = listen("LEPTOS_SITE_ADDR", settings.address).await?;
    let metrics_listener = match settings.metrics {
        Some(address) => Some(listen("TALLY_METRICS", address).await?),
        None => None,
    };
    let patience = Duration::from_secs(settings.store_wait);
    let waits = |error: &StoreError| {
        tracing::warn!("{error}; trying again for {} s", settings.store_wait);
    };
    let store = store::open_patiently(&settings.store, patience, waits).await?;
    // Whoever reads the announcement may already tell the server to stop.
    let signals = Signals::new()?;
    announce(&listener, metrics_listener.as_ref(), &settings)?;
    let sessions = Sessions::new(store, settings.sessions.clone())?;
    sessions.start();
    let (settings, metrics) = (Arc::new(settings), Arc::new(Metrics::default()));
    let leaving = Arc::<AtomicBool>::default();
    let app = app::app(&settings, &sessions, &metrics, &leaving, extra);
    let connections = Connections {
        app,
        keep_alive: Duration::from_secs(settings.keep_alive_timeout),
        open: metrics.connections.clone(),
    };
    if let Some(listener) = metrics_listener {
        let sessions = sessions.clone();
        tokio::spawn(async move { metrics::serve(listener, &metrics, sessions).await });
    }
    let stop = leave(signals, leaving, sessions.clone(), settings.drain_delay);
    let drain = Duration::from_secs(settings.drain_timeout);
    connections.run(listener, stop, drain).await;
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

/// Says where the site is, where its metrics are, and what keeps its sessions. Nobody may be
/// listening, which is no reason to stop.
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

/// What tells the server to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// SIGTERM: service managers.
    Terminate,
    /// SIGINT: a terminal, cargo-leptos.
    Interrupt,
}

/// The signals that tell the server to stop, from when this was made.
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

/// Waits for the signal to stop. A service manager's balancer gets the time to notice that the
/// server is not ready any more; a person at a terminal waits for nobody, nor does a second signal.
async fn leave(mut signals: Signals, leaving: Arc<AtomicBool>, sessions: Sessions, delay: u64) {
    let stop = signals.next().await;
    leaving.store(true, Ordering::Relaxed);
    if stop == Stop::Terminate {
        tokio::select! {
            () = sleep(Duration::from_secs(delay)) => {}
            _ = signals.next() => {}
        }
    }
    // Open pages look for another server, and find one: nobody is sent here any more.
    sessions.close_subscriptions();
}
