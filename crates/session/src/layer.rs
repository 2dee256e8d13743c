//! The tower layer that gives each request its session, and writes what became of it into the response's head.

use std::{
    fmt,
    net::IpAddr,
    panic::{AssertUnwindSafe, resume_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CACHE_CONTROL, HOST, USER_AGENT, VARY},
};
use tokio::runtime::Handle;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Session, SessionError, SessionManager, cookie, request::RequestSession, state::SessionState,
};

/// Makes the response to a request whose session could not be saved.
type ErrorResponse = Arc<dyn Fn(&SessionError) -> Response<String> + Send + Sync>;

/// Gives each request to the services inside of it a [`Session`].
///
/// [`SessionManager::layer`] makes it. It works around any tower service; around a whole `Router` it stands best
/// outside of it, because `Router::layer` clones it for each route.
#[derive(Clone)]
pub struct SessionLayer<S: SessionState> {
    manager: SessionManager<S>,
    on_error: ErrorResponse,
}

impl<S: SessionState> SessionLayer<S> {
    pub(crate) fn new(manager: SessionManager<S>) -> Self {
        Self {
            manager,
            on_error: Arc::new(SessionError::response),
        }
    }

    /// Replaces the response to a request whose session could not be saved after the handler had responded. An error
    /// that a handler gets itself is not concerned.
    #[must_use]
    pub fn on_error(
        mut self,
        response: impl Fn(&SessionError) -> Response<String> + Send + Sync + 'static,
    ) -> Self {
        self.on_error = Arc::new(response);
        self
    }
}

impl<S: SessionState> fmt::Debug for SessionLayer<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SessionLayer(…)")
    }
}

impl<S: SessionState, I> Layer<I> for SessionLayer<S> {
    type Service = SessionService<S, I>;

    fn layer(&self, inner: I) -> Self::Service {
        SessionService {
            layer: self.clone(),
            inner,
        }
    }
}

/// The service that [`SessionLayer`] makes of another one.
///
/// It saves what the request changed before the response begins. It takes that back where the response fails (a
/// status of 500 or more, or 408), the service panics or returns an error, or the request is dropped.
#[derive(Clone, Debug)]
pub struct SessionService<S: SessionState, I> {
    layer: SessionLayer<S>,
    inner: I,
}

impl<S, I, A, B> Service<Request<A>> for SessionService<S, I>
where
    S: SessionState,
    I: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
    I::Future: Send,
    I::Error: Send,
    A: Send + 'static,
    B: From<String> + Send,
{
    type Response = Response<B>;
    type Error = I::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, I::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), I::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let next = self.inner.clone();
        // The one that is ready responds.
        let mut inner = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        Box::pin(async move {
            let session = begin(&layer.manager, &mut request);
            let unanswered = Unanswered::new(&session);
            let responding = AssertUnwindSafe(async { inner.call(request).await });
            let result = responding.catch_unwind().await;
            let result = match result {
                Ok(Ok(response)) => {
                    let failed = |error: &SessionError| (layer.on_error)(error).map(B::from);
                    Ok(Ok(end(&session, response, failed).await))
                }
                failed => {
                    Box::pin(session.roll_back()).await;
                    failed
                }
            };
            unanswered.answered();
            result.unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

/// Who a request comes from, for a server that knows it better than the connection does, as behind a proxy. A
/// service outside of the layer puts it into the request's extensions. Without it the layer takes axum's
/// `ConnectInfo<SocketAddr>` and the scheme of the request's URI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The client's address, by which the making of sessions is limited.
    pub address: Option<IpAddr>,
    /// The client has come by https.
    pub is_https: bool,
}

impl ClientInfo {
    fn of<A>(request: &Request<A>) -> Self {
        let given = request.extensions().get::<Self>().copied();
        given.unwrap_or_else(|| Self {
            address: peer(request),
            is_https: request.uri().scheme_str() == Some("https"),
        })
    }
}

/// The address of the peer, where axum was asked for it.
#[cfg(feature = "axum")]
fn peer<A>(request: &Request<A>) -> Option<IpAddr> {
    use axum::extract::ConnectInfo;
    let info = request
        .extensions()
        .get::<ConnectInfo<std::net::SocketAddr>>();
    info.map(|ConnectInfo(address)| address.ip())
}

#[cfg(not(feature = "axum"))]
fn peer<A>(_request: &Request<A>) -> Option<IpAddr> {
    None
}

/// The host that a client named, without its port.
fn host<A>(request: &Request<A>) -> Option<&str> {
    let named = || request.headers().get(HOST)?.to_str().ok();
    let host = request.uri().host().or_else(named)?;
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(name),
        _ => Some(host),
    }
}

/// Whether a request must not change anything: by its method, or because nobody may ever see the response.
fn is_dry<A>(request: &Request<A>) -> bool {
    let is_prefetch = |name| {
        let purpose = request.headers().get(name);
        purpose.is_some_and(|purpose: &HeaderValue| purpose.as_bytes().starts_with(b"prefetch"))
    };
    matches!(*request.method(), Method::HEAD | Method::OPTIONS)
        || is_prefetch("sec-purpose")
        || is_prefetch("purpose")
}

/// In the extensions of a response whose session made trouble, for the log.
#[derive(Clone, Debug)]
pub struct SessionFailure(pub SessionError);

/// Gives a request its session, in its extensions. Reads the cookie, and touches no store.
fn begin<S: SessionState, A>(manager: &SessionManager<S>, request: &mut Request<A>) -> Session<S> {
    let shared = &manager.shared;
    let has_hosts = !shared.config.cookie_hosts.is_empty();
    let host = has_hosts.then(|| host(request)).flatten();
    let sent = cookie::sent(request.headers(), host, &shared.config);
    let client = ClientInfo::of(request);
    let user_agent = request.headers().get(USER_AGENT).cloned();
    let (shared, is_dry) = (Arc::clone(shared), is_dry(request));
    let session = RequestSession::new(shared, sent, client, user_agent, is_dry);
    let session = Session::new(session);
    request.extensions_mut().insert(session.clone());
    session
}

/// Takes back what a request has changed, unless its response is known before this is dropped. A browser may hang
/// up at any time.
struct Unanswered<S: SessionState>(Option<Session<S>>);

impl<S: SessionState> Unanswered<S> {
    fn new(session: &Session<S>) -> Self {
        Self(Some(session.clone()))
    }

    /// The response is known.
    fn answered(mut self) {
        self.0 = None;
    }
}

impl<S: SessionState> Drop for Unanswered<S> {
    fn drop(&mut self) {
        if let Some(session) = self.0.take()
            && session.has_changes()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { session.roll_back().await });
        }
    }
}

/// Commits what the request did, or takes it back where its response failed, and writes the outcome into the
/// response's head. `on_error` responds where the commit fails.
async fn end<S: SessionState, B>(
    session: &Session<S>,
    mut response: Response<B>,
    on_error: impl FnOnce(&SessionError) -> Response<B>,
) -> Response<B> {
    let status = response.status();
    let mut failed = status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
    if !failed && let Err(error) = session.commit().await {
        response = on_error(&error);
        failed = true;
    }
    if failed {
        Box::pin(session.roll_back()).await;
    }
    session.close();
    if let Some(error) = session.error() {
        response.extensions_mut().insert(SessionFailure(error));
    }
    let (touched, decision) = session.outcome();
    if touched {
        write_head(session, &mut response, (!failed).then_some(decision));
    }
    response
}

fn write_head<S: SessionState, B>(
    session: &Session<S>,
    response: &mut Response<B>,
    decision: Option<cookie::Cookie>,
) {
    let config = &session.shared().config;
    let request = &session.request;
    let headers = response.headers_mut();
    if let (Some(name), Some(revision)) = (&config.revision_header, session.revision()) {
        headers.insert(name, HeaderValue::from(revision));
    }
    headers.append(VARY, cookie::vary(config));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    let header = decision.and_then(|decision| {
        cookie::header(&decision, request.carrier, config, request.client.is_https)
    });
    if let Some((name, value)) = header {
        headers.append(name, value);
    }
}
