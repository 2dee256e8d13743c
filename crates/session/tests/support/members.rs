//! Servers whose members sign in, with a route for each action of a member.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::{Method, Request, StatusCode, header},
    routing::{get, post},
};
use tally_session::{
    Config, Map, Session, SessionError, SessionManager,
    auth::{Limits, Realm, SignIn, SignedIn, UserSession, require_sign_in},
    store::Store,
};

use super::{Seen, ask, send};

pub const REALM: &str = "members";

/// The users' passwords, by name.
pub type Passwords = Arc<Mutex<HashMap<String, String>>>;

pub struct Members;

impl Realm<Passwords> for Members {
    const NAME: &'static str = REALM;
    const SIGN_IN_PAGE: &'static str = "/welcome";

    async fn auth_hash(passwords: &Passwords, user: &str) -> Result<Option<Vec<u8>>, SessionError> {
        let passwords = passwords.lock().expect("not poisoned");
        let password = passwords.get(user).map_or("secret", String::as_str);
        Ok((password != "gone").then(|| password.as_bytes().to_vec()))
    }
}

type Member = SignedIn<Map, Members>;
type Done = Result<String, SessionError>;

/// Signs in with the server's limits, and responds with a status.
async fn sign_in(
    session: Session<Map>,
    Extension(limits): Extension<Option<Limits>>,
    Path((user, status)): Path<(String, u16)>,
) -> Result<StatusCode, SessionError> {
    let sign_in = SignIn::new(user).auth_hash("secret");
    let sign_in = limits.into_iter().fold(sign_in, SignIn::remember);
    session.sign_in(REALM, sign_in).await?;
    Ok(StatusCode::from_u16(status).expect("a status"))
}

async fn who(session: Session<Map>) -> Done {
    let user = session.signed_in(REALM).await?;
    Ok(user.map_or_else(String::new, |user| user.user().to_owned()))
}

async fn sign_out(session: Session<Map>) -> Done {
    session.sign_out(REALM).await.map(|()| String::new())
}

async fn cycle(session: Session<Map>) -> Done {
    session.cycle_id();
    Ok(String::new())
}

async fn put(session: Session<Map>, Path(text): Path<String>) -> Done {
    session.insert("cart", text).await.map(|_| String::new())
}

async fn cart(session: Session<Map>) -> Done {
    let cart = session.get::<String>("cart").await?;
    Ok(cart.unwrap_or_default())
}

async fn short_id(session: Session<Map>) -> Done {
    session.read().await?;
    Ok(session.short_id().unwrap_or_default())
}

async fn list(session: Session<Map>) -> Done {
    let sessions = session.user_sessions(REALM).await?.list().await?;
    let line = |session: UserSession| {
        let current = if session.is_current { " current" } else { "" };
        let agent = session.user_agent.unwrap_or_default();
        format!("{} {agent}{current}", session.short_id)
    };
    Ok(sessions
        .into_iter()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n"))
}

async fn end(session: Session<Map>, Path(short_id): Path<String>) -> Done {
    let ended = session.user_sessions(REALM).await?.end(&short_id).await?;
    Ok(ended.to_string())
}

async fn end_others(session: Session<Map>) -> Done {
    let ended = session.user_sessions(REALM).await?.end_others().await?;
    Ok(format!("{ended:?}"))
}

async fn end_all(session: Session<Map>) -> Done {
    let ended = session.user_sessions(REALM).await?.end_all().await?;
    Ok(format!("{ended:?}"))
}

async fn account(member: Member) -> String {
    format!("Hello {}", member.user.user())
}

/// Two servers on one store.
pub struct World {
    pub servers: [Router; 2],
    pub managers: [SessionManager<Map>; 2],
    pub passwords: Passwords,
}

impl World {
    pub fn new(store: &Arc<dyn Store>, config: &Config, limits: Option<Limits>) -> Self {
        let passwords = Passwords::default();
        let manager = || SessionManager::new(Arc::clone(store), config.clone()).expect("sessions");
        let managers: [SessionManager<Map>; 2] = [manager(), manager()];
        let server = |manager: &SessionManager<Map>| {
            let members = Router::new()
                .route("/account", get(account).post(account))
                .layer(require_sign_in::<Map, Members, Passwords>(Arc::clone(
                    &passwords,
                )));
            Router::new()
                .route("/sign-in/{user}/{status}", post(sign_in))
                .route("/who", get(who))
                .route("/sign-out", post(sign_out))
                .route("/cycle", post(cycle))
                .route("/put/{text}", post(put))
                .route("/cart", get(cart))
                .route("/short-id", get(short_id))
                .route("/list", get(list))
                .route("/end/{short_id}", post(end))
                .route("/end-others", post(end_others))
                .route("/end-all", post(end_all))
                .route("/without-layer", get(account))
                .merge(members)
                .layer(Extension(limits))
                .layer(manager.layer())
                .with_state(Arc::clone(&passwords))
        };
        Self {
            servers: [server(&managers[0]), server(&managers[1])],
            managers,
            passwords,
        }
    }

    pub async fn post(&self, path: &str, cookie: &str) -> Seen {
        self.post_as(path, cookie, "Firefox").await
    }

    pub async fn post_as(&self, path: &str, cookie: &str, agent: &str) -> Seen {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::COOKIE, cookie)
            .header(header::USER_AGENT, agent);
        send(
            &self.servers[0],
            request.body(Body::empty()).expect("a request"),
        )
        .await
    }

    /// Sends a GET request to the other server.
    pub async fn get(&self, path: &str, cookie: &str) -> String {
        ask(&self.servers[1], path, cookie).await.body
    }

    /// Signs in, and returns the browser's cookie.
    pub async fn sign_in(&self, user: &str, cookie: &str) -> String {
        let seen = self.post(&format!("/sign-in/{user}/200"), cookie).await;
        assert_eq!(seen.status, StatusCode::OK, "{}", seen.body);
        seen.cookie
    }
}
