//! Accepts connections and serves the site on each, until the server is told to stop.
//!
//! HTTP/1.1 with upgrades, and HTTP/2 without TLS by prior knowledge, as balancers speak it to the servers behind
//! them. `axum::serve` speaks the same, and waits for ever for a head that never comes.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
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

use super::site::Site;

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

/// Serves the site until `stop` is ready; then open requests get `drain` to finish.
pub async fn run(
    listener: TcpListener,
    site: Arc<Site>,
    stop: impl Future<Output = ()>,
    drain: Duration,
) {
    let (stopping, stopped) = watch::channel(());
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => serve(stream, peer.ip(), &site, &stopped),
            Err(error) => wait_out(&error).await,
        }
    }
    serve_waiting(listener, &site, &stopped);
    stopping.send_replace(());
    drop(stopped);
    tokio::select! {
        () = stopping.closed() => {}
        () = sleep(drain) => tracing::warn!("requests were still open after {drain:?}"),
    }
}

/// Who has been let in by the system already is served, too.
fn serve_waiting(listener: TcpListener, site: &Arc<Site>, stopped: &watch::Receiver<()>) {
    // tokio's listener would only hand out what it has been told of.
    let Ok(listener) = listener.into_std() else {
        return;
    };
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let stream = stream.set_nonblocking(true).map(|()| stream);
                if let Ok(stream) = stream.and_then(TcpStream::from_std) {
                    serve(stream, peer.ip(), site, stopped);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => return,
        }
    }
}

fn serve(stream: TcpStream, peer: IpAddr, site: &Arc<Site>, stopped: &watch::Receiver<()>) {
    // News and small answers must not wait for more to send.
    let _ = stream.set_nodelay(true);
    let counted = Counted::new(site);
    let (site, mut stopped) = (Arc::clone(site), stopped.clone());
    tokio::spawn(async move {
        let version = tokio::select! {
            biased;
            version = timeout(site.next_request(), version(&stream)) => version.ok().flatten(),
            // Without a first byte there is nothing to finish; one that has come already may not be known yet.
            _ = stopped.changed() => {
                stopped.mark_changed();
                timeout(LAST_CHANCE, version(&stream)).await.ok().flatten()
            }
        };
        // Each in a task of its own size: an open connection keeps room for what it speaks alone.
        match version {
            Some(Version::Http1) => drop(tokio::spawn(http1(stream, peer, site, stopped, counted))),
            Some(Version::Http2) => drop(tokio::spawn(http2(stream, peer, site, stopped, counted))),
            None => {}
        }
    });
}

/// An open connection, as the metrics count it.
struct Counted(Gauge);

impl Counted {
    fn new(site: &Site) -> Self {
        let open = site.metrics.connections.clone();
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

/// Serves HTTP/1 until the connection ends; a server that stops lets an open request finish.
async fn http1(
    stream: TcpStream,
    peer: IpAddr,
    site: Arc<Site>,
    mut stopped: watch::Receiver<()>,
    _counted: Counted,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(site.next_request())
        .max_buf_size(BUFFER);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answer = Arc::clone(&site).answer(request.map(Body::new), peer);
        // In a box, for an idle connection keeps room for it.
        Box::pin(async move { Ok::<_, Infallible>(answer.await) })
    });
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

/// Serves HTTP/2 as [`http1`] does HTTP/1, and ends a connection that has been idle.
async fn http2(
    stream: TcpStream,
    peer: IpAddr,
    site: Arc<Site>,
    mut stopped: watch::Receiver<()>,
    _counted: Counted,
) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_header_list_size(BUFFER as u32);
    let (limit, activity) = (site.next_request(), Arc::<Activity>::default());
    let begun = Arc::clone(&activity);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let open = begun.begin();
        let answer = Arc::clone(&site).answer(request.map(Body::new), peer);
        Box::pin(async move { Ok::<_, Infallible>(open.until_sent(answer.await)) })
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
