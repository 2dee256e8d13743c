//! Access control: middleware around the console's routes that rejects a request with the sign-in page.

use std::{
    net::{IpAddr, Ipv4Addr},
    panic::resume_unwind,
    sync::Arc,
};

use axum::{
    extract::{Form, FromRequest, Query, Request, State},
    http::{HeaderValue, Method, StatusCode, header::ALLOW},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tally_session::{
    Session, SessionError, SessionState,
    auth::{Ended, SignIn, SignInStatus, SignedInUser},
};

use crate::{
    Console, OPERATOR, REALM,
    audit::{Action, Actor},
    layout::{self, Page},
    live,
    login_throttle::Attempt,
    mount::Mount,
    sign_in::{self, Reason},
};

/// Placeholder for the address of a client whose address is unknown.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The header that carries the request id.
const REQUEST_ID: &str = "x-request-id";

/// The level of access that a session has.
#[derive(Debug)]
pub enum Access {
    /// Signed in: every page.
    Operator(SignedInUser),
    /// Not signed in: the sign-in page.
    Stranger,
    /// No longer signed in: the sign-in page, with the reason.
    Ended(Ended),
}

/// The form of the sign-in page.
#[derive(Deserialize)]
struct SignInForm {
    password: String,
}

/// The query of a sign-in link.
#[derive(Deserialize)]
struct LinkQuery {
    #[serde(rename = "pass")]
    login_token: String,
}

/// Passes requests of operators on, and responds to all others with the sign-in page.
///
/// A request runs in a task of its own, so that it completes and is logged even if the browser disconnects.
pub async fn require_operator<S: SessionState>(
    State(console): State<Arc<Console<S>>>,
    mount: Mount,
    session: Session<S>,
    request: Request,
    next: Next,
) -> Response {
    if ![Method::GET, Method::HEAD, Method::POST].contains(request.method()) {
        let allow = [(ALLOW, HeaderValue::from_static("GET, HEAD, POST"))];
        return (StatusCode::METHOD_NOT_ALLOWED, allow).into_response();
    }
    let responding = tokio::spawn(async move {
        let is_page_view = !session.is_dry_run() && request.uri().path() != live::PATH;
        let responded = console.respond(&mount, &session, request, next, is_page_view);
        let mut response = responded.await.unwrap_or_else(IntoResponse::into_response);
        match response.extensions_mut().remove::<Page>() {
            Some(page) => {
                let allow = response.headers_mut().remove(ALLOW);
                let mut document = console.render(page, &mount, &session, is_page_view).await;
                document
                    .headers_mut()
                    .extend(allow.map(|allow| (ALLOW, allow)));
                document
            }
            None => response,
        }
    });
    match responding.await {
        Ok(response) => response,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        },
    }
}

impl<S: SessionState> Console<S> {
    async fn respond(
        &self,
        mount: &Mount,
        session: &Session<S>,
        mut request: Request,
        next: Next,
        is_page_view: bool,
    ) -> Result<Response, SessionError> {
        let access = self.access(session).await?;
        let mut actor = Actor {
            address: session.client().address.unwrap_or(UNKNOWN),
            request: request_id(&request),
            short_id: session.short_id(),
        };
        match access {
            Access::Operator(user) => {
                if extends_sign_in(request.uri().path()) {
                    session.use_sign_in(REALM, &user).await?;
                }
                request.extensions_mut().insert(actor);
                Ok(next.run(request).await)
            }
            // Keep the ended sign-in until a page shows the operator the reason.
            Access::Ended(_) if !is_page_view => {
                Ok(sign_in::page(Reason::Asked, mount).into_response())
            }
            Access::Ended(ended) => {
                if session.end_sign_in(REALM).await? {
                    actor.log(Action::SignInEnded, None);
                }
                Ok(sign_in::page(Reason::Ended(ended), mount).into_response())
            }
            Access::Stranger => {
                actor.short_id = None;
                self.stranger(mount, session, request, &actor).await
            }
        }
    }

    /// Determines the access of a session.
    ///
    /// # Errors
    /// Returns an error if the store fails.
    pub(crate) async fn access(&self, session: &Session<S>) -> Result<Access, SessionError> {
        Ok(match session.sign_in_status(REALM).await? {
            SignInStatus::SignedOut => Access::Stranger,
            SignInStatus::SignedIn(user)
                if user.matches_auth_hash(self.verifier.hash().as_bytes()) =>
            {
                Access::Operator(user)
            }
            SignInStatus::SignedIn(_) => Access::Ended(Ended::Elsewhere),
            SignInStatus::Ended(ended) => Access::Ended(ended),
        })
    }

    /// Renders the document of a page, with the pending messages if a person is going to see it.
    async fn render(
        &self,
        mut page: Page,
        mount: &Mount,
        session: &Session<S>,
        is_page_view: bool,
    ) -> Response {
        if is_page_view {
            match session.take_messages().await {
                Ok(messages) => page.messages.extend(messages),
                Err(error) => return error.into_response(),
            }
        }
        let scheme = session
            .snapshot()
            .map(|snapshot| (self.color_scheme)(&snapshot.state));
        layout::respond(page, self, mount, scheme.unwrap_or_default())
    }

    /// Responds to a client that is not signed in: redeems a sign-in link, checks a password, or returns the sign-in
    /// page.
    async fn stranger(
        &self,
        mount: &Mount,
        session: &Session<S>,
        request: Request,
        actor: &Actor,
    ) -> Result<Response, SessionError> {
        let is_root = request.uri().path() == "/";
        if is_root
            && *request.method() == Method::GET
            && let Ok(Query(LinkQuery { login_token })) = Query::try_from_uri(request.uri())
            && session.use_login_token(REALM, &login_token).await?
        {
            actor.log(Action::LinkUsed, None);
            return Ok(mount.redirect("/"));
        }
        let form = if is_root && *request.method() == Method::POST {
            Form::<SignInForm>::from_request(request, &()).await.ok()
        } else {
            None
        };
        let Some(Form(SignInForm { password })) = form else {
            let reason = if session.has_unknown_id() {
                Reason::SessionEnded
            } else {
                Reason::Asked
            };
            return Ok(sign_in::page(reason, mount).into_response());
        };
        let attempt = Attempt {
            address: actor.address,
            trusted_browser: session.trusted_browser(REALM).await?,
        };
        if let Err(seconds) = self.throttle.admit(attempt) {
            if self.throttle.should_log() {
                actor.log(Action::TooManyAttempts, None);
            }
            return Ok(sign_in::page(Reason::TooManyAttempts(seconds), mount).into_response());
        }
        if !self.verifier.verify(password).await {
            actor.log(Action::WrongPassword, None);
            return Ok(sign_in::page(Reason::WrongPassword, mount).into_response());
        }
        let mut entry = actor.begin(Action::SignedIn, None);
        let signed_in = self.sign_in(session).await;
        entry.actor.short_id = session.short_id();
        entry.finish(signed_in)?;
        Ok(mount.redirect("/"))
    }

    /// Signs in and commits, so that the audit log records the outcome.
    ///
    /// A browser that disconnects before it has the response head never learns its new id and starts a new session.
    async fn sign_in(&self, session: &Session<S>) -> Result<(), SessionError> {
        let sign_in = SignIn::new(OPERATOR)
            .auth_hash(self.verifier.hash().as_bytes())
            .limits(self.limits);
        session.sign_in(REALM, sign_in).await?;
        session.commit().await
    }
}

/// Whether a request to this path extends the sign-in.
///
/// The stream doesn't, because the page keeps it open without the operator. Signing out ends the sign-in anyway.
fn extends_sign_in(path: &str) -> bool {
    path != live::PATH && !path.starts_with("/sign-out")
}

fn request_id(request: &Request) -> Option<String> {
    let id = request.headers().get(REQUEST_ID)?;
    id.to_str().ok().map(str::to_owned)
}
