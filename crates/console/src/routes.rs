//! The routes of the console: its pages and the actions of their forms.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Extension, Path, Query, State, rejection::QueryRejection},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tally_session::{Level, Message, Session, SessionError, SessionState};
use tower_layer::Layer;

use crate::{
    Console, REALM,
    access::require_operator,
    audit::{Action, Actor},
    format,
    layout::Page,
    live,
    mount::Mount,
    overview::Overview,
    sessions::{self, ListQuery},
    sign_ins,
};

/// How long the response to "revoke all other sessions" waits for the revocation to finish.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(5);

type Shared<S> = State<Arc<Console<S>>>;

pub fn router<S: SessionState>(console: Arc<Console<S>>) -> Router {
    let access = from_fn_with_state(Arc::clone(&console), require_operator::<S>);
    let pages = Router::new()
        .route("/", get(overview).post(already_signed_in))
        .route(live::PATH, get(stream))
        .route("/sessions", get(list))
        .route("/sessions/{short_id}", get(view))
        .route("/sessions/{short_id}/reveal", post(reveal))
        .route("/sessions/{short_id}/revoke", post(revoke))
        .route("/revoke-others", post(revoke_others))
        .route("/sign-ins", get(own_sign_ins::<S>))
        .route("/sign-ins/{short_id}/end", post(end_sign_in::<S>))
        .route("/sign-ins/end-others", post(end_other_sign_ins::<S>))
        .route("/sign-out", post(sign_out::<S>))
        .route("/sign-out-everywhere", post(sign_out_everywhere::<S>))
        .fallback(async || Page::not_found())
        .method_not_allowed_fallback(async || Page::method_not_allowed())
        .with_state(console);
    // Wrap the whole router. With `Router::layer` the routes would still set `Allow`, which reveals to strangers which
    // routes exist.
    Router::new().fallback_service(access.layer(pages))
}

async fn overview<S: SessionState>(
    State(console): Shared<S>,
    mount: Mount,
) -> Result<Page, SessionError> {
    let overview = Overview::load(&console.sessions, &console.store).await?;
    Ok(overview.page(&mount))
}

/// Handles a sign-in form that another tab still shows after the operator has signed in.
async fn already_signed_in(mount: Mount) -> Response {
    mount.redirect("/")
}

async fn stream<S: SessionState>(
    State(console): Shared<S>,
    session: Session<S>,
) -> Result<Response, SessionError> {
    let subscription = session.subscribe().await?;
    Ok(match subscription {
        Some(subscription) => live::respond(console, session, subscription),
        None => Page::not_found().into_response(),
    })
}

async fn list<S: SessionState>(
    State(console): Shared<S>,
    mount: Mount,
    Extension(actor): Extension<Actor>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Page, SessionError> {
    let query = query.map_or_else(|_| ListQuery::default(), |Query(query)| query);
    let action = if query.is_search() {
        Action::Searched
    } else {
        Action::Listed
    };
    let entry = actor.begin(action, None);
    entry.finish(sessions::list(&console, &mount, &query, actor.own()).await)
}

async fn view<S: SessionState>(
    State(console): Shared<S>,
    mount: Mount,
    Extension(actor): Extension<Actor>,
    Path(short_id): Path<String>,
) -> Result<Page, SessionError> {
    show(&console, &mount, &short_id, Action::Viewed, &actor).await
}

async fn reveal<S: SessionState>(
    State(console): Shared<S>,
    mount: Mount,
    Extension(actor): Extension<Actor>,
    Path(short_id): Path<String>,
) -> Result<Page, SessionError> {
    show(&console, &mount, &short_id, Action::Revealed, &actor).await
}

/// The page of one session, logged as `action`.
async fn show<S: SessionState>(
    console: &Console<S>,
    mount: &Mount,
    short_id: &str,
    action: Action,
    actor: &Actor,
) -> Result<Page, SessionError> {
    let entry = actor.begin(action, Some(short_id));
    let found = entry.finish_found(console.sessions.with_short_id(short_id).await)?;
    let revealed = action == Action::Revealed;
    Ok(found.map_or_else(Page::not_found, |found| {
        sessions::one(console, mount, &found, actor.own(), revealed)
    }))
}

async fn revoke<S: SessionState>(
    State(console): Shared<S>,
    mount: Mount,
    session: Session<S>,
    Extension(actor): Extension<Actor>,
    Path(short_id): Path<String>,
) -> Result<Response, SessionError> {
    if short_id == actor.own() {
        return Ok(Page::not_found().into_response());
    }
    let entry = actor.begin(Action::Revoked, Some(&short_id));
    let text = match entry.finish_found(end(&console, &short_id).await)? {
        Some(()) => format!("The session {short_id} has been revoked."),
        None => "That session has ended, or its id has changed.".to_owned(),
    };
    flash(&session, Level::Success, text).await?;
    Ok(mount.redirect("/sessions"))
}

/// Revokes a session. Returns `None` if the session has already ended or its id has changed.
async fn end<S: SessionState>(
    console: &Console<S>,
    short_id: &str,
) -> Result<Option<()>, SessionError> {
    let Some(found) = console.sessions.with_short_id(short_id).await? else {
        return Ok(None);
    };
    Ok(console.sessions.revoke(&found).await?.then_some(()))
}

/// Revokes all sessions except the operator's.
///
/// The revocation runs in a task of its own, which continues after the response if it takes longer than
/// [`REVOKE_TIMEOUT`].
async fn revoke_others<S: SessionState>(
    State(console): Shared<S>,
    mount: Mount,
    session: Session<S>,
    Extension(actor): Extension<Actor>,
) -> Result<Response, SessionError> {
    if !console.sessions.has_list() {
        return Ok(Page::not_found().into_response());
    }
    actor.log(Action::RevokesOthers, None);
    let entry = actor.begin(Action::RevokedOthers, None);
    let own = session.clone();
    let revoking = tokio::spawn(async move { entry.finish_count(own.revoke_others().await) });
    let (level, text) = match tokio::time::timeout(REVOKE_TIMEOUT, revoking).await {
        Ok(Ok(Ok(Some(number)))) => {
            let number = format::sessions(number);
            (Level::Success, format!("{number} revoked."))
        }
        Ok(Ok(Ok(None))) => return Ok(Page::not_found().into_response()),
        Ok(Ok(Err(error))) => return Err(error),
        Ok(Err(_)) => (
            Level::Warning,
            "Some sessions could not be revoked. See the log for the reason.".to_owned(),
        ),
        Err(_) => {
            let text = "The sessions are being revoked. This may take a while. \
                        The list shows how many are left.";
            (Level::Success, text.to_owned())
        }
    };
    flash(&session, level, text).await?;
    Ok(mount.redirect("/sessions"))
}

async fn sign_out<S: SessionState>(
    mount: Mount,
    session: Session<S>,
    Extension(actor): Extension<Actor>,
) -> Result<Response, SessionError> {
    let entry = actor.begin(Action::SignedOut, None);
    entry.finish(session.sign_out(REALM).await)?;
    flash_and_commit(&session, "You have signed out.").await?;
    Ok(mount.redirect("/"))
}

async fn sign_out_everywhere<S: SessionState>(
    mount: Mount,
    session: Session<S>,
    Extension(actor): Extension<Actor>,
) -> Result<Response, SessionError> {
    let entry = actor.begin(Action::SignedOutEverywhere, None);
    entry.finish(end_others(&session).await)?;
    session.sign_out(REALM).await?;
    flash_and_commit(&session, "You have signed out everywhere.").await?;
    Ok(mount.redirect("/"))
}

async fn own_sign_ins<S: SessionState>(
    mount: Mount,
    session: Session<S>,
) -> Result<Page, SessionError> {
    let sessions = session.user_sessions(REALM).await?;
    if !sessions.can_list() {
        return Ok(sign_ins::without_list(&mount));
    }
    Ok(sign_ins::page(&sessions.list().await?, &mount))
}

/// Signs the operator out in another browser.
async fn end_sign_in<S: SessionState>(
    mount: Mount,
    session: Session<S>,
    Extension(actor): Extension<Actor>,
    Path(short_id): Path<String>,
) -> Result<Response, SessionError> {
    let entry = actor.begin(Action::EndedSignIn, Some(&short_id));
    let sessions = session.user_sessions(REALM).await?;
    let ended = match sessions.end(&short_id).await {
        Ok(ended) => Ok(ended.then_some(())),
        Err(error) => Err(error),
    };
    let text = match entry.finish_found(ended)? {
        Some(()) => "That browser is signed out.",
        None => "That browser was already signed out.",
    };
    flash(&session, Level::Success, text.to_owned()).await?;
    Ok(mount.redirect("/sign-ins"))
}

async fn end_other_sign_ins<S: SessionState>(
    mount: Mount,
    session: Session<S>,
    Extension(actor): Extension<Actor>,
) -> Result<Response, SessionError> {
    let entry = actor.begin(Action::EndedOtherSignIns, None);
    entry.finish(end_others(&session).await)?;
    let text = "You are signed out everywhere else.".to_owned();
    flash(&session, Level::Success, text).await?;
    Ok(mount.redirect("/sign-ins"))
}

async fn end_others<S: SessionState>(session: &Session<S>) -> Result<Option<u64>, SessionError> {
    session.user_sessions(REALM).await?.end_others().await
}

/// Adds a flash message and commits, so that the session already has its new id when the handler responds.
///
/// If the commit fails, the handler responds with the error instead of the redirect.
async fn flash_and_commit<S: SessionState>(
    session: &Session<S>,
    text: &str,
) -> Result<(), SessionError> {
    flash(session, Level::Success, text.to_owned()).await?;
    session.commit().await
}

/// Adds a flash message, which the next page shows once.
async fn flash<S: SessionState>(
    session: &Session<S>,
    level: Level,
    text: String,
) -> Result<(), SessionError> {
    session.add_message(Message { level, text }).await
}
