//! The operator's console at `/admin`: who visits, which sessions there are, and how to end them.
//! There is none until the settings have a password's hash.
//!
//! It stands beside the site's pages and shares nothing with them but the session: its pages are
//! rendered whole by the server, so visitors download no byte of it. Whoever has not signed in sees
//! the sign-in page at every address of it.

pub mod audit;
pub mod charts;
pub mod format;
pub mod layout;
pub mod live;
pub mod login_throttle;
pub mod overview;
pub mod password;
pub mod sessions;
pub mod sign_in;

use std::{
    net::{IpAddr, Ipv4Addr},
    panic::resume_unwind,
    sync::Arc,
    time::Duration,
};

use axum::{
    body::to_bytes,
    extract::Request,
    http::{
        HeaderValue, Method, StatusCode,
        header::{ALLOW, LOCATION},
    },
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use url::form_urlencoded;

use crate::{
    app::AssetNames,
    server::{is_prefetch, request_id::RequestId},
    visitor::{Session, Sessions},
};
use audit::{Action, Actor};
use layout::{PATH, Page};
use login_throttle::{Attempt, LoginThrottle};
use overview::Overview;
use password::{PasswordHash, Verifier};
use sessions::Query;
use sign_in::Reason;
use tally_session::{
    ClientInfo, Level, Message, SessionError,
    auth::{Ended, LAST_USED_STEP, Limits, SignIn},
};

/// What carries the pass of a sign-in link.
const PASS: &str = "pass";

/// So long a sign-in link may be used, in seconds.
const PASS_AGE: u32 = 600;

/// So long the answer to a revocation of all waits for its end.
const REVOKING: Duration = Duration::from_secs(5);

/// Stands for the address of a client that has none.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What sessions are signed in to here. Visitors of yours sign in to a realm of their own.
pub const REALM: &str = "console";

/// What the settings say of the console.
#[derive(Clone, Debug)]
pub struct ConsoleSettings {
    pub password: PasswordHash,
    pub limits: Limits,
}

/// The console of this server.
#[derive(Debug)]
pub struct Console {
    verifier: Verifier,
    limits: Limits,
    login_throttle: LoginThrottle,
    sessions: Sessions,
    store: String,
    assets: AssetNames,
}

/// What somebody may see.
#[derive(Debug)]
pub enum Access {
    /// Everything.
    Operator(SignIn),
    /// The sign-in page.
    Stranger,
    /// The sign-in page, and why.
    Ended(Ended),
}

/// Makes the address of the sign-in page, at the site's own address, with a pass: whoever opens it, once
/// and within ten minutes, is not held up by the passwords that others try. The password itself is
/// still asked for.
///
/// # Errors
/// When the store can't be asked.
pub async fn sign_in_link(sessions: &Sessions, site: &str) -> Result<String, SessionError> {
    let pass = sessions.make_login_token(REALM, PASS_AGE).await?;
    Ok(format!("{site}{PATH}?{PASS}={pass}"))
}

/// Whether a path is the console's.
pub fn is_path(path: &str) -> bool {
    path.strip_prefix(PATH)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Console {
    pub fn new(
        settings: &ConsoleSettings,
        store: String,
        sessions: Sessions,
        assets: AssetNames,
    ) -> Self {
        Self {
            verifier: Verifier::new(settings.password.clone()),
            limits: settings.limits,
            login_throttle: LoginThrottle::default(),
            sessions,
            store,
            assets,
        }
    }

    /// Forgets what is no longer needed of who tried passwords.
    pub fn evict_idle(&self) {
        self.login_throttle.evict_idle();
    }

    /// Answers a request for an address of the console. What it does goes on to its end, and to its
    /// line in the log, where the browser hangs up meanwhile.
    pub async fn answer(
        self: &Arc<Self>,
        request: Request,
        session: &Session,
        client: ClientInfo,
        id: &RequestId,
    ) -> Response {
        let (console, session, id) = (Arc::clone(self), session.clone(), id.clone());
        let answering =
            tokio::spawn(
                async move { console.act_and_answer(request, &session, client, id).await },
            );
        match answering.await {
            Ok(response) => response,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            },
        }
    }

    async fn act_and_answer(
        self: &Arc<Self>,
        request: Request,
        session: &Session,
        client: ClientInfo,
        id: RequestId,
    ) -> Response {
        if ![Method::GET, Method::HEAD, Method::POST].contains(request.method()) {
            let allow = [(ALLOW, HeaderValue::from_static("GET, HEAD, POST"))];
            return (StatusCode::METHOD_NOT_ALLOWED, allow).into_response();
        }
        let is_seen = is_seen(&request);
        let access = match self.access(session).await {
            Ok(access) => access,
            Err(error) => return error.into_response(),
        };
        let mut actor = Actor {
            address: client.address.unwrap_or(UNKNOWN),
            request: id,
            label: session.short_id(),
        };
        let answered = match access {
            Access::Operator(sign_in) => self.operator(request, session, &actor, sign_in).await,
            // The operator has not been told yet.
            Access::Ended(_) if !is_seen => Ok(sign_in::page(Reason::Asked).into()),
            Access::Ended(ended) => {
                let told = session.end_sign_in(REALM).await;
                if matches!(told, Ok(true)) {
                    actor.did(Action::SignInEnded, None);
                }
                told.map(|_| sign_in::page(Reason::Ended(ended)).into())
            }
            Access::Stranger => {
                actor.label = None;
                self.stranger(request, session, &actor).await
            }
        };
        match answered {
            Ok(Answer::Page(page)) => self.page(*page, session, is_seen).await,
            Ok(Answer::Other(response)) => response,
            Err(error) => error.into_response(),
        }
    }

    /// What the session's owner may see.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn access(&self, session: &Session) -> Result<Access, SessionError> {
        let Some(sign_in) = session.signed_in(REALM).await? else {
            return Ok(Access::Stranger);
        };
        // Where the store has forgotten the account, nobody is signed in.
        let generation = self.sessions.generation().await?;
        let checked = match generation {
            Some(generation) => sign_in.check(self.stamp(generation), self.limits, now()),
            None => Err(Ended::Elsewhere),
        };
        Ok(match checked {
            Ok(()) => Access::Operator(sign_in),
            Err(ended) => Access::Ended(ended),
        })
    }

    /// A hash of what a sign-in rests on.
    fn stamp(&self, generation: u64) -> u64 {
        let hash = Sha256::new()
            .chain_update(self.verifier.hash().as_bytes())
            .chain_update(generation.to_le_bytes())
            .finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        u64::from_le_bytes(first)
    }

    /// `is_seen`: somebody is going to look at it, so the messages that wait have been shown.
    async fn page(&self, mut page: Page, session: &Session, is_seen: bool) -> Response {
        if is_seen {
            match session.take_messages().await {
                Ok(messages) => page.messages.extend(messages),
                Err(error) => return error.into_response(),
            }
        }
        let snapshot = session.snapshot();
        let theme = snapshot.map(|snapshot| snapshot.state.theme);
        layout::answer(page, &self.assets, theme.unwrap_or_default())
    }

    /// The sign-in page, who sends a password from it, and who comes by a sign-in link.
    async fn stranger(
        &self,
        request: Request,
        session: &Session,
        actor: &Actor,
    ) -> Result<Answer, SessionError> {
        if let Some(pass) = pass(&request)
            && session.use_login_token(REALM, &pass).await?
        {
            actor.did(Action::LinkUsed, None);
            return Ok(redirect(PATH));
        }
        let tries = request.method() == Method::POST && request.uri().path() == PATH;
        let password = if tries {
            field(request, "password").await
        } else {
            None
        };
        let Some(password) = password else {
            return Ok(sign_in::page(Reason::Asked).into());
        };
        let attempt = Attempt {
            address: actor.address,
            known: session.trusted_browser(REALM).await?,
        };
        if let Err(seconds) = self.login_throttle.admit(attempt) {
            if self.login_throttle.is_worth_a_line() {
                actor.did(Action::TooManyAttempts, None);
            }
            return Ok(sign_in::page(Reason::TooManyAttempts(seconds)).into());
        }
        if !self.verifier.is_right(password).await {
            actor.did(Action::WrongPassword, None);
            return Ok(sign_in::page(Reason::WrongPassword).into());
        }
        let mut line = actor.begins(Action::SignedIn, None);
        let signed_in = self.sign_in(session).await;
        line.actor.label = session.short_id();
        line.ends(signed_in)?;
        Ok(redirect(PATH))
    }

    /// Signs in now, so that the log can say whether it was done. A browser that hangs up between this
    /// and its answer's head does not hear of its new id, and begins a new session.
    async fn sign_in(&self, session: &Session) -> Result<(), SessionError> {
        let generation = self.sessions.generation_or_new().await?;
        session.sign_in(REALM, SignIn::new(self.stamp(generation), now()));
        session.commit().await
    }

    /// What a signed-in operator asks for.
    async fn operator(
        self: &Arc<Self>,
        request: Request,
        session: &Session,
        actor: &Actor,
        sign_in: SignIn,
    ) -> Result<Answer, SessionError> {
        let path = request.uri().path().to_owned();
        let path = path.strip_prefix(PATH).unwrap_or_default();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        if *request.method() == Method::POST {
            self.act(&parts, session, actor, sign_in).await
        } else {
            let query = Query::of(request.uri().query().unwrap_or_default());
            self.show(&parts, &query, session, actor, sign_in).await
        }
    }

    async fn show(
        self: &Arc<Self>,
        parts: &[&str],
        query: &Query,
        session: &Session,
        actor: &Actor,
        sign_in: SignIn,
    ) -> Result<Answer, SessionError> {
        // A stream is held open by the page, not by the operator.
        if let ["live"] = parts {
            let subscription = session.subscribe().await?;
            return Ok(subscription.map_or_else(
                || Page::not_found().into(),
                |subscription| {
                    let console = Arc::clone(self);
                    Answer::Other(live::answer(console, session.clone(), subscription))
                },
            ));
        }
        self.used(session, sign_in).await?;
        let own = actor.own();
        Ok(match parts {
            [] => Overview::load(&self.sessions, &self.store)
                .await?
                .page()
                .into(),
            ["sessions"] => {
                let action = if query.label.is_empty() {
                    Action::Listed
                } else {
                    Action::Searched
                };
                let line = actor.begins(action, None);
                line.ends(sessions::list(&self.sessions, &self.store, query, own).await)?
                    .into()
            }
            ["sessions", label] => self.look_into(label, Action::Viewed, actor).await?.into(),
            _ => Page::not_found().into(),
        })
    }

    async fn act(
        self: &Arc<Self>,
        parts: &[&str],
        session: &Session,
        actor: &Actor,
        sign_in: SignIn,
    ) -> Result<Answer, SessionError> {
        match parts {
            ["sign-out"] => {
                let line = actor.begins(Action::SignedOut, None);
                line.ends(session.sign_out(REALM).await)?;
                say_and_commit(session, "You have signed out.").await?;
                return Ok(redirect(PATH));
            }
            ["sign-out-everywhere"] => {
                let line = actor.begins(Action::SignedOutEverywhere, None);
                line.ends(self.sessions.end_sign_ins().await)?;
                session.sign_out(REALM).await?;
                say_and_commit(session, "You have signed out everywhere.").await?;
                return Ok(redirect(PATH));
            }
            _ => {}
        }
        self.used(session, sign_in).await?;
        let own = actor.own();
        match parts {
            // The sign-in form of another tab.
            [] => Ok(redirect(PATH)),
            ["revoke-others"] => self.revoke_others(session, actor).await,
            ["sessions", label, "reveal"] => {
                let page = self.look_into(label, Action::Revealed, actor).await?;
                Ok(page.into())
            }
            ["sessions", label, "revoke"] if *label != own => {
                let line = actor.begins(Action::Revoked, Some(label));
                let text = match line.ends_if_there(self.revoke(label).await)? {
                    Some(()) => format!("The session {label} has been revoked."),
                    None => "That session has ended, or goes on under another label.".to_owned(),
                };
                say(session, Level::Success, text).await?;
                Ok(redirect(&format!("{PATH}/sessions")))
            }
            _ => Ok(Page::not_found().into()),
        }
    }

    /// A session's page, with its values where they are revealed, and writes that down.
    async fn look_into(
        &self,
        label: &str,
        action: Action,
        actor: &Actor,
    ) -> Result<Page, SessionError> {
        let line = actor.begins(action, Some(label));
        let found = line.ends_if_there(self.sessions.with_short_id(label).await)?;
        let revealed = action == Action::Revealed;
        Ok(found.map_or_else(Page::not_found, |found| {
            sessions::one(&found, actor.own(), revealed)
        }))
    }

    /// Ends a session; `None`: it has ended, or goes on under another id.
    async fn revoke(&self, label: &str) -> Result<Option<()>, SessionError> {
        let Some(found) = self.sessions.with_short_id(label).await? else {
            return Ok(None);
        };
        Ok(self.sessions.revoke(&found).await?.then_some(()))
    }

    /// Ends all sessions but the operator's. That goes on where it takes longer than a request may.
    async fn revoke_others(
        self: &Arc<Self>,
        session: &Session,
        actor: &Actor,
    ) -> Result<Answer, SessionError> {
        if !self.sessions.has_list() {
            return Ok(Page::not_found().into());
        }
        actor.did(Action::RevokesOthers, None);
        let line = actor.begins(Action::RevokedOthers, None);
        let mine = session.clone();
        let revoking = tokio::spawn(async move { line.ends_for(mine.revoke_others().await) });
        let (level, text) = match tokio::time::timeout(REVOKING, revoking).await {
            Ok(Ok(Ok(Some(number)))) => {
                let number = format::sessions(number);
                (Level::Success, format!("{number} revoked."))
            }
            Ok(Ok(Ok(None))) => return Ok(Page::not_found().into()),
            Ok(Ok(Err(error))) => return Err(error),
            Ok(Err(_)) => (
                Level::Warning,
                "Some sessions could not be revoked; the log says why.".to_owned(),
            ),
            Err(_) => {
                let text = "The sessions are being revoked, which takes a while with so many. \
                            The list shows how many are left.";
                (Level::Success, text.to_owned())
            }
        };
        say(session, level, text).await?;
        Ok(redirect(&format!("{PATH}/sessions")))
    }

    /// Writes down that the operator is here, where the last time is a while ago.
    async fn used(&self, session: &Session, sign_in: SignIn) -> Result<(), SessionError> {
        let step =
            LAST_USED_STEP.min(i64::try_from(self.limits.idle / 4).unwrap_or(LAST_USED_STEP));
        let now = now();
        if now - sign_in.last_used_at >= step {
            session.use_sign_in(REALM, now).await?;
        }
        Ok(())
    }
}

/// What a request is answered with.
enum Answer {
    Page(Box<Page>),
    Other(Response),
}

impl From<Page> for Answer {
    fn from(page: Page) -> Self {
        Self::Page(Box::new(page))
    }
}

fn redirect(path: &str) -> Answer {
    let location = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static(PATH));
    Answer::Other((StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response())
}

/// Has the next page say it, for which the session goes on under its new id now: an answer that fails
/// later could not tell the browser.
async fn say_and_commit(session: &Session, text: &str) -> Result<(), SessionError> {
    say(session, Level::Success, text.to_owned()).await?;
    session.commit().await
}

/// Has the next page say it.
async fn say(session: &Session, level: Level, text: String) -> Result<(), SessionError> {
    session.add_message(Message { level, text }).await
}

/// Whether a page that answers this is going to be looked at.
fn is_seen(request: &Request) -> bool {
    let reads_head = *request.method() == Method::HEAD;
    let streams = request.uri().path() == live::PATH;
    !reads_head && !streams && !is_prefetch(request)
}

/// The pass of a sign-in link, where somebody opens one.
fn pass(request: &Request) -> Option<String> {
    if request.method() != Method::GET || request.uri().path() != PATH || is_prefetch(request) {
        return None;
    }
    value(request.uri().query()?.as_bytes(), PASS)
}

/// A field of a form that was sent. Its body has been read before, within the limits.
async fn field(request: Request, name: &str) -> Option<String> {
    let body = to_bytes(request.into_body(), usize::MAX).await.ok()?;
    value(&body, name)
}

/// A value of a form's text, which a query is too.
fn value(form: &[u8], name: &str) -> Option<String> {
    let found = form_urlencoded::parse(form).find(|(other, _)| other == name);
    found.map(|(_, value)| value.into_owned())
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}
