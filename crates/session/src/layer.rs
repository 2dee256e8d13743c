//! Gives each request its session handle, and writes what became of it into the answer's head.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    panic::{AssertUnwindSafe, resume_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, SET_COOKIE, VARY},
};
use tokio::runtime::Handle;
use tower_layer::Layer;
use tower_service::Service;

use super::{Session, SessionError, SessionManager, Sessions, cookie, state::SessionState};

/// The response's header with the number of the session's last write, so that a page knows which of two
/// responses is the newer.
const REVISION: &str = "session-revision";

/// Makes the response to a request whose session could not be saved.
type ErrorResponse = Arc<dyn Fn(&SessionError) -> Response<String> + Send + Sync>;

/// Gives each request to the services inside of it a [`Session`].
///
/// [`SessionManager::layer`] makes it.
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

    /// Answers in one's own way where a session could not be saved when the response was known. What a handler
    /// is told itself, it answers itself.
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
/// It saves what the request changed before the response begins, and takes it back where the response fails
/// (a status of 500 or more, or 408), the service panics or returns an error, or the request is dropped.
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
        // The one that is ready answers.
        let mut inner = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        Box::pin(async move {
            let sessions = layer.manager.sessions();
            let client = ClientInfo::of(&request, sessions.next_request());
            let session = begin(sessions, &mut request, client);
            let unanswered = Unanswered::new(&session);
            let answering = AssertUnwindSafe(async { inner.call(request).await });
            let answered = answering.catch_unwind().await;
            let result = match answered {
                Ok(Ok(response)) => {
                    let failed = |error: &SessionError| (layer.on_error)(error).map(B::from);
                    Ok(end(&session, response, failed).await)
                }
                Ok(Err(error)) => {
                    session.roll_back().await;
                    Err(error)
                }
                Err(panic) => {
                    session.roll_back().await;
                    unanswered.answered();
                    resume_unwind(panic)
                }
            };
            unanswered.answered();
            result
        })
    }
}

/// What is known of a request before anything is done for it.
#[derive(Clone, Copy, Debug)]
pub struct ClientInfo {
    /// The request's own, from [`Sessions::next_request`].
    pub number: u64,
    /// The visitor's.
    pub address: IpAddr,
    /// A trusted proxy says that the visitor has come by https.
    pub is_https: bool,
}

impl ClientInfo {
    /// What a server tells of a request that it takes itself.
    fn of<A>(request: &Request<A>, number: u64) -> Self {
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            number,
            address: peer(request).unwrap_or(nobody),
            is_https: request.uri().scheme_str() == Some("https"),
        }
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

/// Goes with an answer whose session made trouble, for the log.
#[derive(Clone, Debug)]
pub struct Cause(pub SessionError);

/// Gives a request its session, which server functions and handlers find in the extensions: parses
/// the cookie and touches no store; the handle does, when it is asked.
pub fn begin<S: SessionState, A>(
    sessions: &Arc<Sessions<S>>,
    request: &mut Request<A>,
    client: ClientInfo,
) -> Session<S> {
    let sent = cookie::sent(request.headers(), &sessions.config.cookie_name);
    let session = Session::new(Arc::clone(sessions), sent, client);
    request.extensions_mut().insert(session.clone());
    session
}

/// Takes back what a request has changed, unless its response is known before this is dropped: a browser may
/// hang up at any time.
#[derive(Debug)]
pub struct Unanswered<S: SessionState>(Option<Session<S>>);

impl<S: SessionState> Unanswered<S> {
    pub fn new(session: &Session<S>) -> Self {
        Self(Some(session.clone()))
    }

    /// The response is known.
    pub fn answered(mut self) {
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

/// Commits what the request did, or takes it back where its answer failed, and writes the
/// outcome into the response's head. A panic must have become a status of 500 before. `on_error` answers where the
/// commit fails.
pub async fn end<S: SessionState, B>(
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
        session.roll_back().await;
    }
    session.close();
    if let Some(error) = session.error() {
        response.extensions_mut().insert(Cause(error));
    }
    let (touched, decision) = session.outcome();
    if !touched {
        return response;
    }
    let headers = response.headers_mut();
    if let Some(revision) = session.revision() {
        headers.insert(REVISION, HeaderValue::from(revision));
    }
    headers.append(VARY, HeaderValue::from_static("Cookie"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    if !failed
        && let Some(value) = cookie::set_cookie(&decision, session.config(), session.is_https())
    {
        headers.append(SET_COOKIE, value);
    }
    response
}

impl SessionError {
    /// The response for whoever asked: one line, and when to come back. The log has the cause.
    pub fn response(&self) -> Response<String> {
        let (status, seconds) = self.answer();
        let why = match self {
            Self::Flooded { .. } => "Too many new sessions come from your network right now.\n",
            Self::Full => "No more pages can be told of changes right now.\n",
            Self::NoLayer | Self::HeadSent | Self::Decode(_) => {
                "Something is wrong with this site.\n"
            }
            _ => "Your session can't be reached right now. Please try again.\n",
        };
        let mut response = Response::new(why.to_owned());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, plain);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status != StatusCode::INTERNAL_SERVER_ERROR {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
