//! The tower layer: it gives each request its session, commits or rolls back, and sets the cookie.

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

/// Builds the response to a request whose session could not be saved.
type ErrorResponse = Arc<dyn Fn(&SessionError) -> Response<String> + Send + Sync>;

/// A [`tower_layer::Layer`] that gives each request a [`Session`].
///
/// [`SessionManager::layer`] returns it. It wraps any tower service. `Router::layer` clones a layer for each route, so
/// it is cheaper to wrap a whole `Router` from outside.
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

    /// Replaces the response to a request whose session could not be committed after the handler had returned. It does
    /// not apply to errors that a handler receives and returns itself.
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

/// The service of [`SessionLayer`].
///
/// It saves the request's changes before the response begins. It rolls them back if the response fails (a status of 500
/// or more, or 408), if the inner service panics or returns an error, or if the request is dropped.
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
        // Only the inner service that `poll_ready` was called on is ready. The clone takes its place.
        let mut inner = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        Box::pin(async move {
            let session = attach_session(&layer.manager, &mut request);
            let guard = RollbackGuard::new(&session);
            let responding = AssertUnwindSafe(async { inner.call(request).await });
            let result = responding.catch_unwind().await;
            let result = match result {
                Ok(Ok(response)) => {
                    let failed = |error: &SessionError| (layer.on_error)(error).map(B::from);
                    Ok(Ok(finish(&session, response, failed).await))
                }
                failed => {
                    Box::pin(session.roll_back()).await;
                    failed
                }
            };
            guard.disarm();
            result.unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

/// The client of a request.
///
/// Behind a proxy, a service outside of the layer puts it into the request's extensions. Without it, the layer uses
/// axum's `ConnectInfo<SocketAddr>` and the scheme of the request's URI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The client's address. [`Config::new_sessions`](crate::Config::new_sessions) limits new sessions by it.
    pub address: Option<IpAddr>,
    /// Whether the client uses https.
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

/// The address of the peer, if the server provides axum's `ConnectInfo`.
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

/// The host that the client requested, without the port.
fn host<A>(request: &Request<A>) -> Option<&str> {
    let named = || request.headers().get(HOST)?.to_str().ok();
    let host = request.uri().host().or_else(named)?;
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(name),
        _ => Some(host),
    }
}

/// Whether a request must not change anything: because of its method, or because it is a prefetch, whose response may
/// never be shown.
fn is_dry<A>(request: &Request<A>) -> bool {
    let is_prefetch = |name| {
        let purpose = request.headers().get(name);
        purpose.is_some_and(|purpose: &HeaderValue| purpose.as_bytes().starts_with(b"prefetch"))
    };
    matches!(*request.method(), Method::HEAD | Method::OPTIONS)
        || is_prefetch("sec-purpose")
        || is_prefetch("purpose")
}

/// The last session error of a request, in the extensions of its response, for the access log.
#[derive(Clone, Debug)]
pub struct SessionFailure(pub SessionError);

/// Puts a session into a request's extensions. Reads the cookie, but does not query the store.
fn attach_session<S: SessionState, A>(
    manager: &SessionManager<S>,
    request: &mut Request<A>,
) -> Session<S> {
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

/// Rolls a request back when it is dropped, unless it has been disarmed. The server drops a request whose client
/// disconnects.
struct RollbackGuard<S: SessionState>(Option<Session<S>>);

impl<S: SessionState> RollbackGuard<S> {
    fn new(session: &Session<S>) -> Self {
        Self(Some(session.clone()))
    }

    /// The response has been committed or rolled back.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl<S: SessionState> Drop for RollbackGuard<S> {
    fn drop(&mut self) {
        if let Some(session) = self.0.take()
            && session.has_changes()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { session.roll_back().await });
        }
    }
}

/// Commits the request, or rolls it back if its response failed, and sets the response's headers. If the commit fails,
/// the response is `on_error`'s.
async fn finish<S: SessionState, B>(
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
    let (accessed, cookie) = session.outcome();
    if accessed {
        set_headers(session, &mut response, (!failed).then_some(cookie));
    }
    response
}

fn set_headers<S: SessionState, B>(
    session: &Session<S>,
    response: &mut Response<B>,
    cookie: Option<cookie::Cookie>,
) {
    let config = &session.shared().config;
    let request = &session.request;
    let headers = response.headers_mut();
    if let (Some(name), Some(revision)) = (&config.revision_header, session.revision()) {
        headers.insert(name, HeaderValue::from(revision));
    }
    headers.append(VARY, cookie::vary(config));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    let header = cookie.and_then(|cookie| {
        cookie::header(&cookie, request.carrier, config, request.client.is_https)
    });
    if let Some((name, value)) = header {
        headers.append(name, value);
    }
}
