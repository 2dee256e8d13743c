//! The console in process, mounted in plain axum apps.

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
    routing::get,
};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tally_console::{Console, PasswordHash};
use tally_session::{
    Config, Session, SessionError, SessionManager, SessionState,
    store::{self, StoreOptions},
};
use tower::ServiceExt;

const PASSWORD: &str = "correct horse battery staple";

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
struct Cart {
    items: Vec<String>,
}

impl SessionState for Cart {}

async fn buy(session: Session<Cart>) -> Result<String, SessionError> {
    session
        .update(|cart| cart.items.push("tea".to_owned()))
        .await?;
    Ok(session.short_id().unwrap_or_default())
}

/// A shop with the console at this path; empty: at the root.
async fn shop(path: &str) -> Router {
    let options = StoreOptions::new("memory:".parse().expect("a URL"));
    let store = store::open(&options).await.expect("memory");
    let config = Config::default().with_record_stats(true);
    let sessions = SessionManager::new(store, config).expect("sessions");
    let password = PasswordHash::of(PASSWORD).expect("a hash");
    let console = Console::new(&sessions, password)
        .with_title("Shop console")
        .with_column("Items", |cart: &Cart| cart.items.len().to_string())
        .router();
    let app = Router::new().route("/buy", get(buy));
    let app = if path.is_empty() {
        app.merge(console)
    } else {
        app.nest(path, console)
    };
    app.layer(sessions.layer())
}

struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn header(&self, name: header::HeaderName) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("text"))
    }

    /// The cookie that the browser sends from now on.
    fn cookie(&self) -> String {
        let cookie = self.header(header::SET_COOKIE).split(';').next();
        cookie.unwrap_or_default().to_owned()
    }
}

async fn ask(app: &Router, method: &str, path: &str, cookie: &str, form: &str) -> Seen {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::COOKIE, cookie)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()))
        .expect("a request");
    let Ok(response) = app.clone().oneshot(request).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    Seen {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).expect("text"),
    }
}

async fn sign_in(app: &Router, root: &str) -> String {
    let form = format!("password={}", PASSWORD.replace(' ', "+"));
    let signed_in = ask(app, "POST", root, "", &form).await;
    assert_eq!(
        signed_in.status,
        StatusCode::SEE_OTHER,
        "{}",
        signed_in.body
    );
    assert_eq!(signed_in.header(header::LOCATION), root);
    signed_in.cookie()
}

#[tokio::test]
async fn every_address_on_its_pages_begins_with_the_path_where_it_is_mounted() {
    for path in ["/ops", "/internal/sessions/console", ""] {
        let app = shop(path).await;
        let root = if path.is_empty() { "/" } else { path };
        let victim = ask(&app, "GET", "/buy", "", "").await.body;
        let cookie = sign_in(&app, root).await;
        for page in [
            root.to_owned(),
            format!("{path}/sessions"),
            format!("{path}/sessions/{victim}"),
        ] {
            let seen = ask(&app, "GET", &page, &cookie, "").await;
            assert_eq!(seen.status, StatusCode::OK, "{page}");
            assert!(seen.body.contains("Shop console"), "{page}");
            for attribute in [" href=\"", " action=\"", " data-live=\""] {
                for address in seen.body.split(attribute).skip(1) {
                    let address = address.split('"').next().unwrap_or_default();
                    let inside = address == root || address.starts_with(&format!("{path}/"));
                    assert!(inside || address == "#main", "{page}: {address}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_session_is_looked_into_and_revoked() {
    let app = shop("/ops").await;
    let bought = ask(&app, "GET", "/buy", "", "").await;
    let (visitor, victim) = (bought.cookie(), bought.body);
    let cookie = sign_in(&app, "/ops").await;

    let page = format!("/ops/sessions/{victim}");
    let masked = ask(&app, "GET", &page, &cookie, "").await;
    assert!(
        masked.body.contains("<dt>Items</dt><dd>1</dd>"),
        "{}",
        masked.body
    );
    assert!(!masked.body.contains("tea"), "{}", masked.body);
    let revealed = ask(&app, "POST", &format!("{page}/reveal"), &cookie, "").await;
    assert!(revealed.body.contains("tea"), "{}", revealed.body);

    let revoked = ask(&app, "POST", &format!("{page}/revoke"), &cookie, "").await;
    assert_eq!(revoked.header(header::LOCATION), "/ops/sessions");
    let list = ask(&app, "GET", "/ops/sessions", &cookie, "").await;
    assert!(list.body.contains("has been revoked"), "{}", list.body);
    let again = ask(&app, "GET", "/buy", &visitor, "").await;
    assert_ne!(again.body, victim, "a new session");
}

#[tokio::test]
async fn strangers_see_the_sign_in_page_alone_and_operators_what_there_is() {
    let app = shop("/ops").await;
    for path in [
        "/ops",
        "/ops/sessions",
        "/ops/nothing",
        "/ops/revoke-others",
    ] {
        let seen = ask(&app, "GET", path, "", "").await;
        assert_eq!(seen.status, StatusCode::OK, "{path}");
        assert!(seen.body.contains("type=\"password\""), "{path}");
        assert_eq!(seen.header(header::CACHE_CONTROL), "private, no-store");
    }
    let wrong = ask(&app, "POST", "/ops", "", "password=wrong").await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);

    let cookie = sign_in(&app, "/ops").await;
    for (method, path, status) in [
        ("GET", "/ops/nothing", StatusCode::NOT_FOUND),
        ("GET", "/ops/sessions/nobody", StatusCode::NOT_FOUND),
        ("GET", "/ops/revoke-others", StatusCode::METHOD_NOT_ALLOWED),
        ("PUT", "/ops", StatusCode::METHOD_NOT_ALLOWED),
        ("HEAD", "/ops", StatusCode::OK),
    ] {
        let seen = ask(&app, method, path, &cookie, "").await;
        assert_eq!(seen.status, status, "{method} {path}");
        assert!(!seen.body.contains("type=\"password\""), "{method} {path}");
    }
    let refused = ask(&app, "GET", "/ops/revoke-others", &cookie, "").await;
    assert_eq!(refused.header(header::ALLOW), "POST");
    let signed_out = ask(&app, "POST", "/ops/sign-out", &cookie, "").await;
    assert_eq!(signed_out.header(header::LOCATION), "/ops");
    let cookie = signed_out.cookie();
    let seen = ask(&app, "GET", "/ops", &cookie, "").await;
    assert!(seen.body.contains("You have signed out."), "{}", seen.body);
}

#[tokio::test]
async fn a_page_runs_nothing_but_what_stands_in_it() {
    let app = shop("/ops").await;
    let cookie = sign_in(&app, "/ops").await;
    let seen = ask(&app, "GET", "/ops", &cookie, "").await;
    let policy = seen.header(header::CONTENT_SECURITY_POLICY);
    let nonce = policy
        .split("'nonce-")
        .nth(1)
        .and_then(|rest| rest.split('\'').next());
    let nonce = nonce.expect("a nonce");
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let inline = seen.body.matches("<script").count() + seen.body.matches("<style").count();
    assert_eq!(seen.body.matches(nonce).count(), inline);
    assert!(!seen.body.contains(" style=\""), "{}", seen.body);
}
