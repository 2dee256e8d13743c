//! The console in process, nested in plain axum apps.

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

/// A shop with the console nested at `path`, or merged at the root if `path` is empty.
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

/// A response with its body.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn header(&self, name: header::HeaderName) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("text"))
    }

    /// The value of the `Cookie` header for later requests.
    fn cookie(&self) -> String {
        let cookie = self.header(header::SET_COOKIE).split(';').next();
        cookie.unwrap_or_default().to_owned()
    }
}

async fn send(app: &Router, method: &str, path: &str, cookie: &str, form: &str) -> Reply {
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
    Reply {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).expect("text"),
    }
}

async fn sign_in(app: &Router, root: &str) -> String {
    let form = format!("password={}", PASSWORD.replace(' ', "+"));
    let signed_in = send(app, "POST", root, "", &form).await;
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
async fn every_url_on_its_pages_starts_with_the_path_of_the_console() {
    for path in ["/ops", "/internal/sessions/console", ""] {
        let app = shop(path).await;
        let root = if path.is_empty() { "/" } else { path };
        let victim = send(&app, "GET", "/buy", "", "").await.body;
        let cookie = sign_in(&app, root).await;
        for page in [
            root.to_owned(),
            format!("{path}/sessions"),
            format!("{path}/sessions/{victim}"),
        ] {
            let reply = send(&app, "GET", &page, &cookie, "").await;
            assert_eq!(reply.status, StatusCode::OK, "{page}");
            assert!(reply.body.contains("Shop console"), "{page}");
            for attribute in [" href=\"", " action=\"", " data-live=\""] {
                for address in reply.body.split(attribute).skip(1) {
                    let address = address.split('"').next().unwrap_or_default();
                    let inside = address == root || address.starts_with(&format!("{path}/"));
                    assert!(inside || address == "#main", "{page}: {address}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_session_can_be_inspected_and_revoked() {
    let app = shop("/ops").await;
    let bought = send(&app, "GET", "/buy", "", "").await;
    let (visitor, victim) = (bought.cookie(), bought.body);
    let cookie = sign_in(&app, "/ops").await;

    let page = format!("/ops/sessions/{victim}");
    let masked = send(&app, "GET", &page, &cookie, "").await;
    assert!(
        masked.body.contains("<dt>Items</dt><dd>1</dd>"),
        "{}",
        masked.body
    );
    assert!(!masked.body.contains("tea"), "{}", masked.body);
    let revealed = send(&app, "POST", &format!("{page}/reveal"), &cookie, "").await;
    assert!(revealed.body.contains("tea"), "{}", revealed.body);

    let revoked = send(&app, "POST", &format!("{page}/revoke"), &cookie, "").await;
    assert_eq!(revoked.header(header::LOCATION), "/ops/sessions");
    let list = send(&app, "GET", "/ops/sessions", &cookie, "").await;
    assert!(list.body.contains("has been revoked"), "{}", list.body);
    let again = send(&app, "GET", "/buy", &visitor, "").await;
    assert_ne!(again.body, victim, "a new session");
}

#[tokio::test]
async fn strangers_get_only_the_sign_in_page() {
    let app = shop("/ops").await;
    for path in [
        "/ops",
        "/ops/sessions",
        "/ops/nothing",
        "/ops/revoke-others",
    ] {
        let reply = send(&app, "GET", path, "", "").await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        assert!(reply.body.contains("type=\"password\""), "{path}");
        assert_eq!(reply.header(header::CACHE_CONTROL), "private, no-store");
    }
    let wrong = send(&app, "POST", "/ops", "", "password=wrong").await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);

    let cookie = sign_in(&app, "/ops").await;
    for (method, path, status) in [
        ("GET", "/ops/nothing", StatusCode::NOT_FOUND),
        ("GET", "/ops/sessions/nobody", StatusCode::NOT_FOUND),
        ("GET", "/ops/revoke-others", StatusCode::METHOD_NOT_ALLOWED),
        ("PUT", "/ops", StatusCode::METHOD_NOT_ALLOWED),
        ("HEAD", "/ops", StatusCode::OK),
    ] {
        let reply = send(&app, method, path, &cookie, "").await;
        assert_eq!(reply.status, status, "{method} {path}");
        assert!(!reply.body.contains("type=\"password\""), "{method} {path}");
    }
    let refused = send(&app, "GET", "/ops/revoke-others", &cookie, "").await;
    assert_eq!(refused.header(header::ALLOW), "POST");
    let signed_out = send(&app, "POST", "/ops/sign-out", &cookie, "").await;
    assert_eq!(signed_out.header(header::LOCATION), "/ops");
    let cookie = signed_out.cookie();
    let reply = send(&app, "GET", "/ops", &cookie, "").await;
    assert!(
        reply.body.contains("You have signed out."),
        "{}",
        reply.body
    );
}

#[tokio::test]
async fn a_page_only_runs_its_own_inline_script() {
    let app = shop("/ops").await;
    let cookie = sign_in(&app, "/ops").await;
    let reply = send(&app, "GET", "/ops", &cookie, "").await;
    let policy = reply.header(header::CONTENT_SECURITY_POLICY);
    let nonce = policy
        .split("'nonce-")
        .nth(1)
        .and_then(|rest| rest.split('\'').next());
    let nonce = nonce.expect("a nonce");
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let inline = reply.body.matches("<script").count() + reply.body.matches("<style").count();
    assert_eq!(reply.body.matches(nonce).count(), inline);
    assert!(!reply.body.contains(" style=\""), "{}", reply.body);
}
