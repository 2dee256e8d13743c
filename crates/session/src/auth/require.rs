//! Sign-ins with axum: a layer that restricts routes to signed-in users, and an extractor of the user.

use std::{
    convert::Infallible,
    fmt,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::{FromRequestParts, OriginalUri, Request},
    response::{IntoResponse, Redirect, Response},
};
use http::{Method, StatusCode, Uri, header::ACCEPT, request::Parts};
use tower_layer::Layer;
use tower_service::Service;

use super::SignedInUser;
use crate::{Session, SessionError, SessionState};

/// The query parameter of the sign-in page that holds the path to return to.
const NEXT: &str = "next";

/// A realm: its name, its sign-in page, and what a sign-in must rest on.
///
/// `T` is the state of the axum router, with the application's users.
///
/// ```
/// use std::{collections::HashMap, sync::Arc};
/// use tally_session::{SessionError, auth::Realm};
///
/// /// The members of a site.
/// struct Members;
///
/// /// The password hash of each user.
/// type Users = Arc<HashMap<String, String>>;
///
/// impl Realm<Users> for Members {
///     const NAME: &'static str = "members";
///
///     async fn auth_hash(users: &Users, user: &str) -> Result<Option<Vec<u8>>, SessionError> {
///         Ok(users.get(user).map(|hash| hash.clone().into_bytes()))
///     }
/// }
/// ```
pub trait Realm<T>: Send + Sync + 'static {
    /// The realm's name, which sessions store.
    const NAME: &'static str;

    /// The path of the realm's sign-in page.
    const SIGN_IN_PAGE: &'static str = "/login";

    /// Returns what a sign-in of this user must rest on now, as passed to
    /// [`SignIn::auth_hash`](super::SignIn::auth_hash). `None`: the user no longer exists.
    ///
    /// It is called for each request that needs a signed-in user.
    ///
    /// # Errors
    /// When the user can't be looked up. [`SessionError::other`] converts any error.
    fn auth_hash(
        state: &T,
        user: &str,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, SessionError>> + Send;
}

/// An extractor of the user who is signed in to a realm.
///
/// A client that is not signed in is rejected as by [`require_sign_in`].
pub struct SignedIn<S: SessionState, R> {
    /// The user.
    pub user: SignedInUser,
    /// The session.
    pub session: Session<S>,
    realm: PhantomData<fn() -> R>,
}

impl<S: SessionState, R> Clone for SignedIn<S, R> {
    fn clone(&self) -> Self {
        Self {
            user: self.user.clone(),
            session: self.session.clone(),
            realm: PhantomData,
        }
    }
}

impl<S: SessionState, R> fmt::Debug for SignedIn<S, R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("SignedIn").field(&self.user).finish()
    }
}

impl<S: SessionState, R: Realm<T>, T: Sync> FromRequestParts<T> for SignedIn<S, R> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &T) -> Result<Self, Response> {
        if let Some(found) = parts.extensions.get::<Self>() {
            return Ok(found.clone());
        }
        match find::<S, R, T>(parts, state).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(sign_in_response::<R, T>(parts)),
            Err(error) => Err(error.into_response()),
        }
    }
}

/// Finds the user who is signed in. Removes a sign-in that rests on an old password.
async fn find<S: SessionState, R: Realm<T>, T: Sync>(
    parts: &Parts,
    state: &T,
) -> Result<Option<SignedIn<S, R>>, SessionError> {
    let session = parts.extensions.get::<Session<S>>();
    let session = session.cloned().ok_or(SessionError::NoLayer)?;
    let Some(user) = session.signed_in(R::NAME).await? else {
        return Ok(None);
    };
    let auth_hash = R::auth_hash(state, user.user()).await?;
    if !auth_hash.is_some_and(|auth_hash| user.matches_auth_hash(auth_hash)) {
        session.end_sign_in(R::NAME).await?;
        return Ok(None);
    }
    Ok(Some(SignedIn {
        user,
        session,
        realm: PhantomData,
    }))
}

/// Redirects a browser to the sign-in page, with the path to return to. Any other client gets 401.
fn sign_in_response<R: Realm<T>, T>(parts: &Parts) -> Response {
    let accepted = parts.headers.get_all(ACCEPT).iter();
    let mut accepted = accepted.filter_map(|accept| accept.to_str().ok());
    if !accepted.any(|accept| accept.contains("text/html")) {
        return (StatusCode::UNAUTHORIZED, "Please sign in.\n").into_response();
    }
    if parts.method != Method::GET {
        return Redirect::to(R::SIGN_IN_PAGE).into_response();
    }
    let original = parts.extensions.get::<OriginalUri>();
    let uri = original.map_or(&parts.uri, |OriginalUri(uri)| uri);
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair(NEXT, &path_of(uri))
        .finish();
    Redirect::to(&format!("{}?{query}", R::SIGN_IN_PAGE)).into_response()
}

fn path_of(uri: &Uri) -> String {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    path.to_owned()
}

/// Returns the `next` parameter of a sign-in page if it is a path on this site, otherwise `/`.
///
/// Without this check, a link to the sign-in page could redirect users to another site.
///
/// ```
/// use tally_session::auth::safe_return_path;
///
/// assert_eq!(safe_return_path("/cart?step=2"), "/cart?step=2");
/// assert_eq!(safe_return_path("//evil.example/"), "/");
/// assert_eq!(safe_return_path("/\\evil.example/"), "/");
/// assert_eq!(safe_return_path("https://evil.example/"), "/");
/// ```
pub fn safe_return_path(next: &str) -> &str {
    let is_plain = next
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_plain && next.starts_with('/') && !next.starts_with("//") {
        next
    } else {
        "/"
    }
}

/// Returns a layer that rejects requests whose session is not signed in to a realm.
///
/// A browser is redirected to the realm's sign-in page with status 303. For a GET request, the parameter `next` holds
/// the path to return to. A client whose `Accept` header does not contain `text/html` gets status 401.
///
/// ```no_run
/// # use axum::{Router, routing::get};
/// # use tally_session::{Map, SessionError, SessionManager, auth::{Realm, SignedIn, require_sign_in}};
/// # #[derive(Clone)] struct Users;
/// # struct Members;
/// # impl Realm<Users> for Members {
/// #     const NAME: &'static str = "members";
/// #     async fn auth_hash(_: &Users, _: &str) -> Result<Option<Vec<u8>>, SessionError> { Ok(None) }
/// # }
/// async fn account(member: SignedIn<Map, Members>) -> String {
///     format!("Hello {}", member.user.user())
/// }
///
/// # fn app(users: Users, sessions: SessionManager<Map>) -> Router {
/// Router::new()
///     .route("/account", get(account))
///     .layer(require_sign_in::<Map, Members, Users>(users.clone()))
///     .layer(sessions.layer())
///     .with_state(users)
/// # }
/// ```
pub fn require_sign_in<S: SessionState, R: Realm<T>, T>(state: T) -> RequireSignIn<S, R, T> {
    RequireSignIn {
        state,
        kinds: PhantomData,
    }
}

/// The layer that [`require_sign_in`] returns.
pub struct RequireSignIn<S, R, T> {
    state: T,
    kinds: PhantomData<fn() -> (S, R)>,
}

impl<S, R, T: Clone> Clone for RequireSignIn<S, R, T> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            kinds: PhantomData,
        }
    }
}

impl<S, R, T> fmt::Debug for RequireSignIn<S, R, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RequireSignIn(…)")
    }
}

impl<S, R, T: Clone, I> Layer<I> for RequireSignIn<S, R, T> {
    type Service = RequireSignInService<S, R, T, I>;

    fn layer(&self, inner: I) -> Self::Service {
        RequireSignInService {
            layer: self.clone(),
            inner,
        }
    }
}

/// The service of [`RequireSignIn`].
pub struct RequireSignInService<S, R, T, I> {
    layer: RequireSignIn<S, R, T>,
    inner: I,
}

impl<S, R, T, I> fmt::Debug for RequireSignInService<S, R, T, I> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RequireSignInService(…)")
    }
}

impl<S, R, T: Clone, I: Clone> Clone for RequireSignInService<S, R, T, I> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<S, R, T, I> Service<Request> for RequireSignInService<S, R, T, I>
where
    S: SessionState,
    R: Realm<T>,
    T: Clone + Send + Sync + 'static,
    I: Service<Request, Error = Infallible> + Clone + Send + 'static,
    I::Response: IntoResponse,
    I::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let next = self.inner.clone();
        // Only the inner service that `poll_ready` was called on is ready. The clone takes its place.
        let mut inner = std::mem::replace(&mut self.inner, next);
        let state = self.layer.state.clone();
        Box::pin(async move {
            let (mut parts, body): (Parts, Body) = request.into_parts();
            match find::<S, R, T>(&parts, &state).await {
                Ok(Some(found)) => _ = parts.extensions.insert(found),
                Ok(None) => return Ok(sign_in_response::<R, T>(&parts)),
                Err(error) => return Ok(error.into_response()),
            }
            let response = inner.call(Request::from_parts(parts, body)).await?;
            Ok(response.into_response())
        })
    }
}
