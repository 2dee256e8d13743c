//! Who may see the console: a layer around its routes, whose rejection is the sign-in page.

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

/// Stands for the address of a client that has none.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The header with the name of a request.
const REQUEST_ID: &str = "x-request-id";

/// What a session may see.
#[derive(Debug)]
pub enum Access {
    /// Everything.
    Operator(SignedInUser),
    /// The sign-in page.
    Stranger,
    /// The sign-in page, and why.
    Ended(Ended),
}

/// What the sign-in page sends.
#[derive(Deserialize)]
struct Password {
    password: String,
}

/// What a sign-in link carries.
#[derive(Deserialize)]
struct Token {
    pass: String,
}

/// Lets operators through, and shows everybody else the sign-in page. What a request does goes on to its end, and to
/// its line in the log, where the browser hangs up before.
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
        let is_seen = !session.is_dry_run() && request.uri().path() != live::PATH;
        let responded = console.respond(&mount, &session, request, next, is_seen);
        let mut response = responded.await.unwrap_or_else(IntoResponse::into_response);
        match response.extensions_mut().remove::<Page>() {
            Some(page) => {
                let allow = response.headers_mut().remove(ALLOW);
                let mut document = console.render(page, &mount, &session, is_seen).await;
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
        is_seen: bool,
    ) -> Result<Response, SessionError> {
        let access = self.access(session).await?;
        let mut actor = Actor {
            address: session.client().address.unwrap_or(UNKNOWN),
            request: request_id(&request),
            short_id: session.short_id(),
        };
        match access {
            Access::Operator(user) => {
                if counts_as_use(request.uri().path()) {
                    session.use_sign_in(REALM, &user).await?;
                }
                request.extensions_mut().insert(actor);
                Ok(next.run(request).await)
            }
            // The operator has not been told yet.
            Access::Ended(_) if !is_seen => Ok(sign_in::page(Reason::Asked, mount).into_response()),
            Access::Ended(ended) => {
                if session.end_sign_in(REALM).await? {
                    actor.did(Action::SignInEnded, None);
                }
                Ok(sign_in::page(Reason::Ended(ended), mount).into_response())
            }
            Access::Stranger => {
                actor.short_id = None;
                self.stranger(mount, session, request, &actor).await
            }
        }
    }

    /// What the session's owner may see.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub(crate) async fn access(&self, session: &Session<S>) -> Result<Access, SessionError> {
        Ok(match session.sign_in_status(REALM).await? {
            SignInStatus::SignedOut => Access::Stranger,
            SignInStatus::SignedIn(user) if user.rests_on(self.verifier.hash().as_bytes()) => {
                Access::Operator(user)
            }
            SignInStatus::SignedIn(_) => Access::Ended(Ended::Elsewhere),
            SignInStatus::Ended(ended) => Access::Ended(ended),
        })
    }

    /// The document of a page. `is_seen`: somebody is going to look at it, so the messages that wait are shown.
    async fn render(
        &self,
        mut page: Page,
        mount: &Mount,
        session: &Session<S>,
        is_seen: bool,
    ) -> Response {
        if is_seen {
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

    /// Responds to a client that is not signed in: uses up a sign-in link, checks a password, or shows the sign-in page.
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
            && let Ok(Query(Token { pass })) = Query::try_from_uri(request.uri())
            && session.use_login_token(REALM, &pass).await?
        {
            actor.did(Action::LinkUsed, None);
            return Ok(mount.redirect("/"));
        }
        let password = if is_root && *request.method() == Method::POST {
            Form::<Password>::from_request(request, &()).await.ok()
        } else {
            None
        };
        let Some(Form(Password { password })) = password else {
            let reason = if session.has_unknown_id() {
                Reason::SessionEnded
            } else {
                Reason::Asked
            };
            return Ok(sign_in::page(reason, mount).into_response());
        };
        let attempt = Attempt {
            address: actor.address,
            known: session.trusted_browser(REALM).await?,
        };
        if let Err(seconds) = self.throttle.admit(attempt) {
            if self.throttle.is_worth_a_line() {
                actor.did(Action::TooManyAttempts, None);
            }
            return Ok(sign_in::page(Reason::TooManyAttempts(seconds), mount).into_response());
        }
        if !self.verifier.is_right(password).await {
            actor.did(Action::WrongPassword, None);
            return Ok(sign_in::page(Reason::WrongPassword, mount).into_response());
        }
        let mut line = actor.begins(Action::SignedIn, None);
        let signed_in = self.sign_in(session).await;
        line.actor.short_id = session.short_id();
        line.ends(signed_in)?;
        Ok(mount.redirect("/"))
    }

    /// Signs in now, so that the log can say whether it was done. A browser that hangs up between this and the head of
    /// its response does not learn its new id, and begins a new session.
    async fn sign_in(&self, session: &Session<S>) -> Result<(), SessionError> {
        let sign_in = SignIn::new(OPERATOR)
            .auth_hash(self.verifier.hash().as_bytes())
            .limits(self.limits);
        session.sign_in(REALM, sign_in).await?;
        session.commit().await
    }
}

/// A stream is held open by the page, not by the operator, and a sign-out ends the use.
fn counts_as_use(path: &str) -> bool {
    path != live::PATH && !path.starts_with("/sign-out")
}

fn request_id(request: &Request) -> Option<String> {
    let id = request.headers().get(REQUEST_ID)?;
    id.to_str().ok().map(str::to_owned)
}
