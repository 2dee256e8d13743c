//! Accepts connections and serves the app on them until the server shuts down.
//!
//! It supports HTTP/1.1 with upgrades, and HTTP/2 without TLS with prior knowledge, which load balancers use for their
//! backends. Two existing servers were tried instead:
//!
//! - `axum::serve` 0.8 waits forever for a request head that never arrives.
//! - axum-server 0.8 never closes an HTTP/2 connection without requests (`a_connection_without_a_request_is_ended`
//!   fails), and an idle stream takes 23 KB (`an_idle_stream_costs_less_than_20_kib` fails).

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, extract::ConnectInfo, response::Response};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

use super::middleware::Inner;

/// The future of a response.
type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// The size of the read and write buffers of a connection, in bytes.
///
/// It limits the size of a request head, and the data that is queued for a client that does not read. hyper requires at
/// least 8 KiB.
const BUFFER: usize = 16 * 1_024;

/// The interval between two HTTP/2 pings, and how long the client may take to respond to one.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// The start of the HTTP/2 connection preface. No HTTP/1 method starts like this.
const HTTP2_PREFACE: &[u8] = b"PRI";

/// How long to wait for more bytes if only a part of the preface has arrived.
const PREFACE_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long a connection may take to send its first bytes once the server is shutting down.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(100);

/// The delay after a failure to accept a connection.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Serves an app on the connections that a listener accepts.
#[derive(Clone, Debug)]
pub struct Connections<S> {
    pub app: S,
    /// How long a connection may be idle, including the time until the head of its next request.
    pub keep_alive: Duration,
    /// The number of open connections.
    pub open: Gauge,
}

impl<S: Inner + 'static> Connections<S> {
    /// Serves the app until `shutdown` completes. Then open requests have `drain_timeout` to finish.
    pub async fn run(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
        drain_timeout: Duration,
    ) {
        let (stopping, stopped) = watch::channel(());
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.serve(stream, peer, &stopped),
                Err(error) => back_off(&error).await,
            }
        }
        self.serve_backlog(listener, &stopped);
        stopping.send_replace(());
        drop(stopped);
        tokio::select! {
            () = stopping.closed() => {}
            () = sleep(drain_timeout) => {
                tracing::warn!("requests were still open after {drain_timeout:?}");
            }
        }
    }

    /// Serves the connections that the operating system has already accepted.
    fn serve_backlog(&self, listener: TcpListener, stopped: &watch::Receiver<()>) {
        // Tokio's listener only returns connections that the reactor has reported, so use the standard one.
        let Ok(listener) = listener.into_std() else {
            return;
        };
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    let stream = stream.set_nonblocking(true).map(|()| stream);
                    if let Ok(stream) = stream.and_then(TcpStream::from_std) {
                        self.serve(stream, peer, stopped);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return,
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, stopped: &watch::Receiver<()>) {
        // Send events and small responses immediately.
        let _ = stream.set_nodelay(true);
        let connection = Connection {
            peer,
            app: self.app.clone(),
            keep_alive: self.keep_alive,
            _guard: ConnectionGuard::new(&self.open),
        };
        let mut stopped = stopped.clone();
        tokio::spawn(async move {
            let version = tokio::select! {
                biased;
                version = timeout(connection.keep_alive, detect_version(&stream)) => {
                    version.ok().flatten()
                }
                // A connection without a first byte has no request to finish. But a byte may have arrived that the
                // reactor has not reported yet.
                _ = stopped.changed() => {
                    stopped.mark_changed();
                    let version = timeout(SHUTDOWN_GRACE, detect_version(&stream));
                    version.await.ok().flatten()
                }
            };
            // Spawn a task for each protocol. One task for both would have the size of the larger future.
            match version {
                Some(Version::Http1) => drop(tokio::spawn(connection.http1(stream, stopped))),
                Some(Version::Http2) => drop(tokio::spawn(connection.http2(stream, stopped))),
                None => {}
            }
        });
    }
}

/// Counts an open connection until it is dropped.
struct ConnectionGuard(Gauge);

impl ConnectionGuard {
    fn new(open: &Gauge) -> Self {
        let open = open.clone();
        open.inc();
        Self(open)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The protocol of a connection.
enum Version {
    Http1,
    Http2,
}

/// Detects the protocol from the first bytes. Returns `None` if the client has closed the connection.
async fn detect_version(stream: &TcpStream) -> Option<Version> {
    let mut bytes = [0; HTTP2_PREFACE.len()];
    loop {
        match stream.peek(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(size) if size == HTTP2_PREFACE.len() && bytes == HTTP2_PREFACE => {
                return Some(Version::Http2);
            }
            Ok(size) if size < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&bytes[..size]) => {
                sleep(PREFACE_POLL_INTERVAL).await;
            }
            Ok(_) => return Some(Version::Http1),
        }
    }
}

/// An accepted connection.
struct Connection<S> {
    peer: SocketAddr,
    app: S,
    keep_alive: Duration,
    _guard: ConnectionGuard,
}

impl<S: Inner + 'static> Connection<S> {
    /// Responds to a request. The future is boxed, because otherwise each idle connection would reserve space for it.
    fn respond(&self, request: hyper::Request<Incoming>) -> ResponseFuture {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        Box::pin(self.app.clone().respond(request).map(Ok))
    }

    /// Serves HTTP/1 until the connection ends. On shutdown an open request may finish.
    async fn http1(self, stream: TcpStream, mut stopped: watch::Receiver<()>) {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.keep_alive)
            .max_buf_size(BUFFER);
        let service = service_fn(move |request| self.respond(request));
        let mut connection = pin!(
            builder
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
        );
        let served = tokio::select! {
            biased;
            served = &mut connection => served,
            _ = stopped.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        log(served);
    }

    /// Serves HTTP/2 until the connection ends or has been idle for too long. On shutdown open requests may finish.
    async fn http2(self, stream: TcpStream, mut stopped: watch::Receiver<()>) {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL)
            .max_header_list_size(BUFFER as u32);
        let (limit, activity) = (self.keep_alive, Arc::<Activity>::default());
        let requests = Arc::clone(&activity);
        let service = service_fn(move |request| {
            let open = requests.begin();
            let responding = self.respond(request);
            Box::pin(async move { responding.await.map(|response| open.until_sent(response)) })
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let served = tokio::select! {
            biased;
            served = &mut connection => served,
            () = activity.until_idle(limit) => Ok(()),
            _ = stopped.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        log(served);
    }
}

fn log(served: hyper::Result<()>) {
    if let Err(error) = served {
        tracing::debug!(%error, "connection error");
    }
}

/// Counts the requests of an HTTP/2 connection, to detect when it is idle.
///
/// HTTP/1 doesn't need this: hyper limits the time until the head of the next request.
#[derive(Debug, Default)]
struct Activity {
    open: AtomicUsize,
    started: AtomicUsize,
}

impl Activity {
    fn begin(self: &Arc<Self>) -> OpenRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.started.fetch_add(1, Ordering::Relaxed);
        OpenRequest(Arc::clone(self))
    }

    /// Waits until no request is open and none has started for `limit`.
    async fn until_idle(&self, limit: Duration) {
        loop {
            let started = self.started.load(Ordering::Relaxed);
            sleep(limit).await;
            let none_since = started == self.started.load(Ordering::Relaxed);
            if none_since && self.open.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }
}

/// Counts an open request until it is dropped.
struct OpenRequest(Arc<Activity>);

impl OpenRequest {
    /// Keeps the request open until the response body has been sent.
    fn until_sent(self, response: Response) -> Response {
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _open = &self;
                frame
            }))
        })
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits after a failure to accept a connection, unless only that one connection has failed.
///
/// Errors such as "too many open files" persist, and the accept loop must not spin on them.
async fn back_off(error: &io::Error) {
    let is_client_gone = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    );
    if !is_client_gone {
        tracing::error!(%error, "failed to accept a connection");
        sleep(ACCEPT_RETRY_DELAY).await;
    }
}
