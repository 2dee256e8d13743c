//! Why a session could not be read or changed, and the response that says so.

use std::sync::Arc;

use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use thiserror::Error;
use tower_sessions::session_store;

/// When clients shall come back to a store that did not respond, in seconds.
const RETRY: u64 = 2;

/// When a page shall ask again for a subscription, in seconds.
const RETRY_SUBSCRIBERS: u64 = 30;

/// Why a session could not be read or changed. A change that failed was not saved, unless the variant says
/// otherwise.
///
/// As an axum response it is one line of plain text with [`SessionError::status`] and
/// [`SessionError::retry_after`]. Map it to answer in your own way:
///
/// ```
/// use http::StatusCode;
/// use tally_session::SessionError;
///
/// fn status(error: &SessionError) -> StatusCode {
///     match error {
///         SessionError::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
///         other => other.status(),
///     }
/// }
/// ```
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The store did not respond, or refused.
    #[error("the session store failed: {0}")]
    Store(Arc<session_store::Error>),
    /// Other servers changed the session first, for as long as the change was tried.
    #[error("the session could not be saved: other servers were faster too often")]
    Conflict,
    /// The store stopped responding while a change was saved: the one case where a change may have been saved
    /// although its request failed.
    #[error("the session store stopped responding while a change was saved: {0}")]
    Indeterminate(Arc<session_store::Error>),
    /// The state can't be written as JSON.
    #[error("the record can't be encoded: {0}")]
    Encode(Arc<serde_json::Error>),
    /// The operating system gives no random numbers.
    #[error("no random numbers from the operating system: {0}")]
    Random(getrandom::Error),
    /// The function that was to change the session panicked.
    #[error("a change of the session panicked")]
    Panicked,
    /// [`Config::max_subscribers`](crate::Config::max_subscribers) is reached, or the server is about to stop.
    #[error("the server has all the subscribers that it may have")]
    TooManySubscribers,
    /// The client's address has made too many sessions.
    #[error("too many new sessions from one address; one more in {seconds} s")]
    RateLimited {
        /// The seconds after which the address may make one more.
        seconds: u64,
    },
    /// Some of many sessions may have been passed over.
    #[error("the store was restarted, or lost a server, before all sessions were seen")]
    Interrupted,
    /// No [`SessionLayer`](crate::SessionLayer) is around the handler.
    #[error("no session layer around this request")]
    NoLayer,
    /// A session can't begin any more, because its cookie goes with the response's head. Streamed responses make
    /// their session before they begin; in Leptos, with `SsrMode::Async`.
    #[error(
        "the response's head is out, so no cookie can carry a new session: change the session before the response begins"
    )]
    HeadSent,
    /// No user is signed in.
    #[error("no user is signed in")]
    SignedOut,
    /// The store can't list the sessions of a user: files, Memcached, and a wrapped store.
    #[error("this session store can't list the sessions of a user")]
    NoIndex,
    /// What the application's own code ran into, for [`auth::Realm`](crate::auth::Realm).
    #[error("{0}")]
    Other(Arc<dyn std::error::Error + Send + Sync>),
    /// The session keeps a value of another type under this key.
    #[error("what the session keeps can't be decoded: {0}")]
    Decode(Arc<serde_json::Error>),
}

impl From<session_store::Error> for SessionError {
    fn from(error: session_store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl From<serde_json::Error> for SessionError {
    fn from(error: serde_json::Error) -> Self {
        Self::Encode(Arc::new(error))
    }
}

impl From<getrandom::Error> for SessionError {
    fn from(error: getrandom::Error) -> Self {
        Self::Random(error)
    }
}

impl SessionError {
    /// The same failure where a change may have been saved before it.
    pub(crate) fn indeterminate(self) -> Self {
        match self {
            Self::Store(error) => Self::Indeterminate(error),
            other => other,
        }
    }

    /// An error of the application's own.
    pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Arc::new(error))
    }

    /// Whether the store is at fault. It logs the begin and the end of its outages itself.
    pub fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Indeterminate(_))
    }

    /// The status of a response that says so.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::SignedOut => StatusCode::UNAUTHORIZED,
            Self::NoIndex => StatusCode::NOT_IMPLEMENTED,
            Self::NoLayer | Self::HeadSent | Self::Decode(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The seconds after which another try may succeed; `None`: it won't.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::RateLimited { seconds } => Some(*seconds),
            Self::TooManySubscribers => Some(RETRY_SUBSCRIBERS),
            Self::SignedOut | Self::NoIndex | Self::NoLayer | Self::HeadSent | Self::Decode(_) => {
                None
            }
            _ => Some(RETRY),
        }
    }

    /// One line for the client, and when to come back. The log has the cause.
    pub fn response(&self) -> Response<String> {
        let why = match self {
            Self::RateLimited { .. } => "Too many new sessions come from your network right now.\n",
            Self::TooManySubscribers => "No more pages can be told of changes right now.\n",
            Self::SignedOut => "Please sign in.\n",
            Self::NoIndex => "This site can't list your sessions.\n",
            Self::NoLayer | Self::HeadSent | Self::Decode(_) => {
                "Something is wrong with this site.\n"
            }
            _ => "Your session can't be reached right now. Please try again.\n",
        };
        let mut response = Response::new(why.to_owned());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, plain);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
