//! Accepts connections and serves the site on each, until the server is told to stop.
//!
//! HTTP/1.1 with upgrades, and HTTP/2 without TLS by prior knowledge, as balancers speak it to the servers behind
//! them. Two servers of others were tried in its place:
//!
//! - `axum::serve` 0.8 waits for ever for a head that never comes.
//! - axum-server 0.8 never ends an HTTP/2 connection that sends no request (`a_connection_without_a_request_is_ended`
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

/// The response to a request, when it is made.
type Responding = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// The most that is read ahead of a connection, and written ahead of a client that does not read,
/// in bytes: what a head may have, and what hyper takes at the least.
const BUFFER: usize = 16 * 1_024;

/// How often a client that speaks HTTP/2 is asked whether it is still there, and may take to answer.
const PING: Duration = Duration::from_secs(20);

/// How HTTP/2 begins; no method of HTTP/1 begins so.
const HTTP2: &[u8] = b"PRI";

/// The wait for the rest of a beginning that came in parts.
const REST: Duration = Duration::from_millis(10);

/// How long a connection may take to begin once the server has been told to stop.
const LAST_CHANCE: Duration = Duration::from_millis(100);

/// The wait after the system had no more connections to give.
const NO_MORE: Duration = Duration::from_secs(1);

/// What serves an app on the connections that a listener accepts.
#[derive(Clone, Debug)]
pub struct Connections<S> {
    pub app: S,
    /// How long a connection may wait for its next request, and take for that request's head.
    pub keep_alive: Duration,
    /// Counts the open connections.
    pub open: Gauge,
}

impl<S: Inner + 'static> Connections<S> {
    /// Serves the app until `stop` is ready; then open requests get `drain` to finish.
    pub async fn run(self, listener: TcpListener, stop: impl Future<Output = ()>, drain: Duration) {
        let (stopping, stopped) = watch::channel(());
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stop => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.serve(stream, peer, &stopped),
                Err(error) => wait_out(&error).await,
            }
        }
        self.serve_waiting(listener, &stopped);
        stopping.send_replace(());
        drop(stopped);
        tokio::select! {
            () = stopping.closed() => {}
            () = sleep(drain) => tracing::warn!("requests were still open after {drain:?}"),
        }
    }

    /// Who has been let in by the system already is served, too.
    fn serve_waiting(&self, listener: TcpListener, stopped: &watch::Receiver<()>) {
        // tokio's listener would only hand out what it has been told of.
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
        // News and small answers must not wait for more to send.
        let _ = stream.set_nodelay(true);
        let connection = Connection {
            peer,
            app: self.app.clone(),
            keep_alive: self.keep_alive,
            _counted: Counted::new(&self.open),
        };
        let mut stopped = stopped.clone();
        tokio::spawn(async move {
            let version = tokio::select! {
                biased;
                version = timeout(connection.keep_alive, version(&stream)) => version.ok().flatten(),
                // Without a first byte there is nothing to finish; one that has come already may not be known yet.
                _ = stopped.changed() => {
                    stopped.mark_changed();
                    timeout(LAST_CHANCE, version(&stream)).await.ok().flatten()
                }
            };
            // Each in a task of its own size: an open connection keeps room for what it speaks alone.
            match version {
                Some(Version::Http1) => drop(tokio::spawn(connection.http1(stream, stopped))),
                Some(Version::Http2) => drop(tokio::spawn(connection.http2(stream, stopped))),
                None => {}
            }
        });
    }
}

/// An open connection, as the metrics count it.
struct Counted(Gauge);

impl Counted {
    fn new(open: &Gauge) -> Self {
        let open = open.clone();
        open.inc();
        Self(open)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What a client speaks.
enum Version {
    Http1,
    Http2,
}

/// What the client begins to speak; `None`: it has gone.
async fn version(stream: &TcpStream) -> Option<Version> {
    let mut bytes = [0; HTTP2.len()];
    loop {
        match stream.peek(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(size) if size == HTTP2.len() && bytes == HTTP2 => return Some(Version::Http2),
            Ok(size) if size < HTTP2.len() && HTTP2.starts_with(&bytes[..size]) => {
                sleep(REST).await;
            }
            Ok(_) => return Some(Version::Http1),
        }
    }
}

/// One connection.
struct Connection<S> {
    peer: SocketAddr,
    app: S,
    keep_alive: Duration,
    _counted: Counted,
}

impl<S: Inner + 'static> Connection<S> {
    /// The response to a request of this connection, in a box, because an idle connection keeps room for it.
    fn respond(&self, request: hyper::Request<Incoming>) -> Responding {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        Box::pin(self.app.clone().respond(request).map(Ok))
    }

    /// Serves HTTP/1 until the connection ends; a server that stops lets an open request finish.
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

    /// Serves HTTP/2 as [`Self::http1`] does HTTP/1, and ends a connection that has been idle.
    async fn http2(self, stream: TcpStream, mut stopped: watch::Receiver<()>) {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .max_header_list_size(BUFFER as u32);
        let (limit, activity) = (self.keep_alive, Arc::<Activity>::default());
        let begun = Arc::clone(&activity);
        let service = service_fn(move |request| {
            let open = begun.begin();
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
        tracing::debug!(%error, "a connection broke");
    }
}

/// How many requests of an HTTP/2 connection are open. HTTP/1 has one after the other, and hyper's own
/// limit for the next one's head.
#[derive(Debug, Default)]
struct Activity {
    open: AtomicUsize,
    begun: AtomicUsize,
}

impl Activity {
    fn begin(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Waits until no request is open, and none has begun for as long as a connection may wait for one.
    async fn until_idle(&self, limit: Duration) {
        loop {
            let begun = self.begun.load(Ordering::Relaxed);
            sleep(limit).await;
            let none_since = begun == self.begun.load(Ordering::Relaxed);
            if none_since && self.open.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }
}

/// A request that is open until this is dropped.
struct Open(Arc<Activity>);

impl Open {
    /// The request stays open until its response has been sent whole.
    fn until_sent(self, response: Response) -> Response {
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _open = &self;
                frame
            }))
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client that has gone meanwhile is no reason to wait; having no more files to open is.
async fn wait_out(error: &io::Error) {
    let gone = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    );
    if !gone {
        tracing::error!(%error, "no connection can be accepted");
        sleep(NO_MORE).await;
    }
}
