//! Users with passwords, and the sessions of each user.
//!
//! Run `cargo run -p tally-session --example login`. Sign up, and put something into the cart before or after. Then
//! sign in with a second browser, and open "My devices". There you can sign out a device, or change the password, which
//! signs out all other devices.
//!
//! The users are rows of an SQLite file (`DATABASE_URL`). `SESSION_STORE` selects the store of the sessions. Forms of
//! other sites don't work, because the cookie is `SameSite=Lax`. On a site with https, also set the config's
//! `cookie_secure` to `CookieSecure::Always`.

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use axum::{
    Form, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;
use tally_session::{
    Level, Message, Session, SessionError, SessionManager, SessionState,
    auth::{Limits, Realm, SignIn, SignedIn, UserSession, require_sign_in, safe_return_path},
};
use tokio::task::spawn_blocking;

/// Without "remember me", a sign-in ends after an hour without use, and in any case after half a day.
const ORDINARY: Limits = Limits {
    idle: Some(3_600),
    absolute: Some(43_200),
};

/// With "remember me", a sign-in ends after a month without use.
const REMEMBERED: Limits = Limits {
    idle: Some(30 * 86_400),
    absolute: None,
};

/// The state of a session. A guest's cart survives signing in.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cart {
    items: Vec<String>,
}

impl SessionState for Cart {}

/// The users' password hashes, by name.
#[derive(Clone)]
pub struct Users(SqlitePool);

impl Users {
    pub async fn open(url: &str) -> Result<Self, sqlx::Error> {
        let pool = SqlitePool::connect(url).await?;
        sqlx::query(
            "create table if not exists users (name text primary key, password text not null)",
        )
        .execute(&pool)
        .await?;
        Ok(Self(pool))
    }

    async fn password(&self, name: &str) -> Result<Option<String>, SessionError> {
        let password = sqlx::query_scalar("select password from users where name = ?")
            .bind(name)
            .fetch_optional(&self.0);
        password.await.map_err(SessionError::other)
    }

    /// Adds a user. Returns `false` if the name is taken.
    async fn add(&self, name: &str, hash: &str) -> Result<bool, SessionError> {
        let added = sqlx::query("insert into users values (?, ?) on conflict do nothing")
            .bind(name)
            .bind(hash)
            .execute(&self.0);
        let added = added.await.map_err(SessionError::other)?;
        Ok(added.rows_affected() == 1)
    }

    async fn set_password(&self, name: &str, hash: &str) -> Result<(), SessionError> {
        let set = sqlx::query("update users set password = ? where name = ?")
            .bind(hash)
            .bind(name)
            .execute(&self.0);
        set.await.map(|_| ()).map_err(SessionError::other)
    }
}

/// The realm of the shop's users. A sign-in is valid until the password changes.
struct Members;

impl Realm<Users> for Members {
    const NAME: &'static str = "members";

    async fn auth_hash(users: &Users, name: &str) -> Result<Option<Vec<u8>>, SessionError> {
        Ok(users.password(name).await?.map(String::into_bytes))
    }
}

type Member = SignedIn<Cart, Members>;

/// Hashes a password on a blocking thread, because it takes a few hundredths of a second by design.
async fn hash(password: String) -> Result<String, SessionError> {
    let hash = spawn_blocking(move || Argon2::default().hash_password(password.as_bytes()));
    let hash = hash.await.map_err(SessionError::other)?;
    hash.map(|hash| hash.to_string())
        .map_err(SessionError::other)
}

/// Whether a password matches a hash. A hash is verified even if there is no such user, so that a fast response does
/// not reveal which names exist.
async fn is_right(password: String, hash: Option<String>) -> Result<bool, SessionError> {
    let checked = spawn_blocking(move || {
        let nobody = || {
            Argon2::default()
                .hash_password(b"")
                .map(|hash| hash.to_string())
        };
        let (is_user, hash) = match hash {
            Some(hash) => (true, hash),
            None => (false, nobody().unwrap_or_default()),
        };
        let hash = PasswordHash::new(&hash);
        let verified =
            hash.map(|hash| Argon2::default().verify_password(password.as_bytes(), &hash));
        is_user && matches!(verified, Ok(Ok(())))
    });
    checked.await.map_err(SessionError::other)
}

#[derive(Deserialize)]
struct Credentials {
    name: String,
    password: String,
    /// Present if the box is checked.
    remember: Option<String>,
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
struct Next {
    #[serde(default)]
    next: String,
}

async fn shop(session: Session<Cart>) -> Result<Html<String>, SessionError> {
    let messages = session.take_messages().await?;
    let user = session.signed_in(Members::NAME).await?;
    let who = match &user {
        Some(user) => format!(
            "<p>Hello {}. <a href=/devices>My devices</a></p>\
             <form method=post action=/logout><button>Sign out</button></form>",
            escape(user.user())
        ),
        None => "<p><a href=/login>Sign in</a> or <a href=/signup>sign up</a>.</p>".to_owned(),
    };
    let items = session.read().await?.items;
    let items: String = items
        .iter()
        .map(|item| format!("<li>{}</li>", escape(item)))
        .collect();
    let body = format!(
        "{who}<h2>Cart</h2><ul>{items}</ul>\
         <form method=post action=/cart><label>Item <input name=item required maxlength=50></label>\
         <button>Put into the cart</button></form>"
    );
    Ok(page("Shop", &messages, &body))
}

#[derive(Deserialize)]
struct Item {
    item: String,
}

async fn add(
    session: Session<Cart>,
    Form(Item { item }): Form<Item>,
) -> Result<Redirect, SessionError> {
    session
        .update(move |cart| cart.items.push(item.clone()))
        .await?;
    Ok(Redirect::to("/"))
}

async fn sign_up_page() -> Html<String> {
    page("Sign up", &[], &credentials("/signup", "", "new-password"))
}

async fn sign_up(
    State(users): State<Users>,
    session: Session<Cart>,
    Form(form): Form<Credentials>,
) -> Result<Response, SessionError> {
    let hash = hash(form.password.clone()).await?;
    if form.name.is_empty() || !users.add(&form.name, &hash).await? {
        return Ok(refused(
            "Sign up",
            "This name is taken.",
            "/signup",
            "",
            "new-password",
        ));
    }
    sign_in(&session, &form, &hash).await
}

async fn log_in_page(Query(Next { next }): Query<Next>) -> Html<String> {
    page(
        "Sign in",
        &[],
        &credentials("/login", &next, "current-password"),
    )
}

async fn log_in(
    State(users): State<Users>,
    session: Session<Cart>,
    Form(form): Form<Credentials>,
) -> Result<Response, SessionError> {
    let hash = users.password(&form.name).await?;
    if !is_right(form.password.clone(), hash.clone()).await? {
        let why = "Wrong name or password.";
        return Ok(refused(
            "Sign in",
            why,
            "/login",
            &form.next,
            "current-password",
        ));
    }
    sign_in(&session, &form, &hash.unwrap_or_default()).await
}

/// Signs in. The session moves to a new id when the response succeeds. The old id is never signed in.
async fn sign_in(
    session: &Session<Cart>,
    form: &Credentials,
    hash: &str,
) -> Result<Response, SessionError> {
    let sign_in = SignIn::new(&form.name).auth_hash(hash);
    let sign_in = match form.remember {
        Some(_) => sign_in.remember(REMEMBERED),
        None => sign_in.limits(ORDINARY),
    };
    session.sign_in(Members::NAME, sign_in).await?;
    Ok(Redirect::to(safe_return_path(&form.next)).into_response())
}

async fn log_out(session: Session<Cart>) -> Result<Redirect, SessionError> {
    // Deletes the cart too, so that the next user of this browser finds nothing.
    session.flush().await?;
    Ok(Redirect::to("/"))
}

async fn devices(member: Member) -> Result<Html<String>, SessionError> {
    let messages = member.session.take_messages().await?;
    let devices = member
        .session
        .user_sessions(Members::NAME)
        .await?
        .list()
        .await?;
    let rows: String = devices.iter().map(device).collect();
    let body = format!(
        "<table><tr><th>Browser</th><th>Address</th><th>Signed in</th><th>Last used</th><th>End it</th></tr>{rows}</table>\
         <form method=post action=/devices/end-others><button>Sign out everywhere else</button></form>\
         <h2>Password</h2><form method=post action=/password>\
         <p><label>New password <input type=password name=password required autocomplete=new-password></label></p>\
         <button>Change it, and sign out everywhere else</button></form><p><a href=/>Shop</a></p>"
    );
    Ok(page("My devices", &messages, &body))
}

fn device(device: &UserSession) -> String {
    let end = if device.is_current {
        "this one".to_owned()
    } else {
        let id = escape(&device.short_id);
        format!("<form method=post action=/devices/{id}/end><button>Sign out</button></form>")
    };
    let text = |text: Option<String>| escape(&text.unwrap_or_else(|| "unknown".to_owned()));
    let time = |seconds| {
        let time = time::OffsetDateTime::from_unix_timestamp(seconds);
        time.map_or_else(
            |_| String::new(),
            |time| format!("{} {:02}:{:02}", time.date(), time.hour(), time.minute()),
        )
    };
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{end}</td></tr>",
        text(device.user_agent.clone()),
        text(device.address.map(|address| address.to_string())),
        time(device.signed_in_at),
        time(device.last_used_at),
    )
}

async fn end_device(
    member: Member,
    Path(short_id): Path<String>,
) -> Result<Redirect, SessionError> {
    let ended = member
        .session
        .user_sessions(Members::NAME)
        .await?
        .end(&short_id)
        .await?;
    let text = if ended {
        "It is signed out."
    } else {
        "It was signed out already."
    };
    member
        .session
        .add_message(Message::new(Level::Success, text))
        .await?;
    Ok(Redirect::to("/devices"))
}

async fn end_others(member: Member) -> Result<Redirect, SessionError> {
    member
        .session
        .user_sessions(Members::NAME)
        .await?
        .end_others()
        .await?;
    let message = Message::new(Level::Success, "You are signed out everywhere else.");
    member.session.add_message(message).await?;
    Ok(Redirect::to("/devices"))
}

#[derive(Deserialize)]
struct NewPassword {
    password: String,
}

/// Ends the user's other sessions, and signs this one in again with the new password.
async fn change_password(
    State(users): State<Users>,
    member: Member,
    Form(NewPassword { password }): Form<NewPassword>,
) -> Result<Redirect, SessionError> {
    let (name, session) = (member.user.user(), &member.session);
    let hash = hash(password).await?;
    users.set_password(name, &hash).await?;
    session
        .user_sessions(Members::NAME)
        .await?
        .end_others()
        .await?;
    session
        .sign_in(
            Members::NAME,
            SignIn::new(name).auth_hash(&hash).limits(ORDINARY),
        )
        .await?;
    let message = Message::new(Level::Success, "The password has changed.");
    session.add_message(message).await?;
    Ok(Redirect::to("/devices"))
}

pub fn app(sessions: &SessionManager<Cart>, users: Users) -> Router {
    let members = Router::new()
        .route("/devices", get(devices))
        .route("/devices/{short_id}/end", post(end_device))
        .route("/devices/end-others", post(end_others))
        .route("/password", post(change_password))
        .layer(require_sign_in::<Cart, Members, Users>(users.clone()));
    Router::new()
        .route("/", get(shop))
        .route("/cart", post(add))
        .route("/signup", get(sign_up_page).post(sign_up))
        .route("/login", get(log_in_page).post(log_in))
        .route("/logout", post(log_out))
        .merge(members)
        .layer(sessions.layer())
        .with_state(users)
}

fn page(title: &str, messages: &[Message], body: &str) -> Html<String> {
    let messages = messages
        .iter()
        .map(|message| format!("<p role=status>{}</p>", escape(&message.text)));
    let messages: String = messages.collect();
    Html(format!(
        "<!DOCTYPE html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width, initial-scale=1\"><link rel=icon href=\"data:,\"><title>{title}</title>\
         <style>body{{font:1rem/1.6 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}}\
         table{{border-collapse:collapse;width:100%;display:block;overflow-x:auto}}\
         td,th{{padding:.4rem .8rem .4rem 0;text-align:left}}\
         input,button{{font:inherit;padding:.3rem .6rem}}form{{margin:.5rem 0}}</style>\
         <main><h1>{title}</h1>{messages}{body}</main></html>"
    ))
}

fn refused(title: &str, why: &str, action: &str, next: &str, autocomplete: &str) -> Response {
    let body = format!(
        "<p role=alert>{why}</p>{}",
        credentials(action, next, autocomplete)
    );
    (StatusCode::UNAUTHORIZED, page(title, &[], &body)).into_response()
}

fn credentials(action: &str, next: &str, autocomplete: &str) -> String {
    let next = escape(next);
    format!(
        "<form method=post action={action}><input type=hidden name=next value=\"{next}\">\
         <p><label>Name <input name=name required maxlength=50 autocomplete=username></label></p>\
         <p><label>Password <input type=password name=password required autocomplete={autocomplete}></label></p>\
         <p><label><input type=checkbox name=remember> Remember me</label></p><button>Go on</button></form>\
         <p><a href=/>Shop</a></p>"
    )
}

/// Escapes text for HTML.
fn escape(text: &str) -> String {
    let escape = |character: char| match character {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\'' => "&#39;".to_owned(),
        other => other.to_string(),
    };
    text.chars().map(escape).collect()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let file = std::env::temp_dir().join("tally-session-login.sqlite");
    let users = format!("sqlite://{}?mode=rwc", file.display());
    let sessions = SessionManager::connect(&setting("SESSION_STORE", "memory:")).await?;
    let users = Users::open(&setting("DATABASE_URL", &users)).await?;
    let listener = tokio::net::TcpListener::bind(setting("ADDRESS", "127.0.0.1:3000")).await?;
    println!("http://{}", listener.local_addr()?);
    let app = app(&sessions, users).into_make_service_with_connect_info::<std::net::SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}
