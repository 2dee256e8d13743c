//! Accepts connections and serves the site on each, until the server is told to stop.

use std::{convert::Infallible, io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::site::Site;

/// The most that is read ahead of a connection, and written ahead of a client that does not read,
/// in bytes: what a head may have, and what hyper takes at the least.
const BUFFER: usize = 16 * 1_024;

/// How long a connection may wait for its next request, and take for that request's head: longer
/// than proxies keep one for use again (nginx: 60 s), so that none is closed as they use it.
const NEXT_REQUEST: Duration = Duration::from_secs(75);

/// The wait after the system had no more connections to give.
const NO_MORE: Duration = Duration::from_secs(1);

/// Serves the site until `stop` is ready; then open requests get `drain` to finish.
pub async fn run(
    listener: TcpListener,
    site: Arc<Site>,
    stop: impl Future<Output = ()>,
    drain: Duration,
) {
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => serve(stream, peer.ip(), &site, &connections),
            Err(error) => wait_out(&error).await,
        }
    }
    serve_waiting(listener, &site, &connections);
    tokio::select! {
        () = connections.shutdown() => {}
        () = sleep(drain) => tracing::warn!("requests were still open after {drain:?}"),
    }
}

/// Who has been let in by the system already is served, too.
fn serve_waiting(listener: TcpListener, site: &Arc<Site>, connections: &GracefulShutdown) {
    // tokio's listener would only hand out what it has been told of.
    let Ok(listener) = listener.into_std() else {
        return;
    };
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let stream = stream.set_nonblocking(true).map(|()| stream);
                if let Ok(stream) = stream.and_then(TcpStream::from_std) {
                    serve(stream, peer.ip(), site, connections);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => return,
        }
    }
}

fn serve(stream: TcpStream, peer: IpAddr, site: &Arc<Site>, connections: &GracefulShutdown) {
    // News and small answers must not wait for more to send.
    let _ = stream.set_nodelay(true);
    let open = site.metrics.connections.clone();
    open.inc();
    let site = Arc::clone(site);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answer = Arc::clone(&site).answer(request.map(Body::new), peer);
        // In a box, for an idle connection keeps room for it.
        Box::pin(async move { Ok::<_, Infallible>(answer.await) })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT_REQUEST)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection broke");
        }
        open.dec();
    });
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
