//! The examples, in process.

mod support;

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use support::{Seen, ask, memory, send};
use tally_session::{Config, SessionManager};

#[path = "../examples/counter.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod counter;

#[path = "../examples/flash.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod flash;

#[path = "../examples/typed_state.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod typed_state;

#[path = "../examples/login.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod login;

#[path = "../examples/api_token.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod api_token;

#[path = "../examples/tower_sessions_store.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod tower_sessions_store;

#[tokio::test]
async fn the_counter_counts_visits_tests_the_cookie_and_resets() {
    let sessions = SessionManager::new(memory().await, Config::default()).expect("sessions");
    let app = counter::app(&sessions);
    assert_eq!(
        ask(&app, "/about", "").await.body,
        "Cookie not set or not supported"
    );
    let first = ask(&app, "/", "").await;
    assert_eq!(first.body, "Visit count: 1");
    let set_cookie = first.set_cookie.expect("a cookie");
    assert!(set_cookie.starts_with("sessionid="), "{set_cookie}");
    assert!(
        set_cookie.ends_with("; HttpOnly; SameSite=Lax; Path=/; Max-Age=1209600"),
        "{set_cookie}"
    );
    assert_eq!(ask(&app, "/", &first.cookie).await.body, "Visit count: 2");
    assert_eq!(
        ask(&app, "/about", &first.cookie).await.body,
        "Cookie Tested!"
    );
    let again = ask(&app, "/about", &first.cookie).await;
    assert_eq!(
        again.body, "Cookie not set or not supported",
        "the mark has been removed"
    );
    let reset = ask(&app, "/reset", &first.cookie).await;
    assert_eq!(reset.body, "Visit count has been reset to 0");
    assert_eq!(ask(&app, "/", &first.cookie).await.body, "Visit count: 1");
}

#[tokio::test]
async fn a_flash_message_is_shown_once_after_the_redirect() {
    let sessions = SessionManager::new(memory().await, Config::default()).expect("sessions");
    let app = flash::app(&sessions);
    let chosen = ask(&app, "/choose/blue", "").await;
    assert_eq!(chosen.status, StatusCode::SEE_OTHER);
    let page = ask(&app, "/", &chosen.cookie).await.body;
    assert_eq!(page, "Colour: blue\nSuccess: The colour is blue now.\n");
    assert_eq!(ask(&app, "/", &chosen.cookie).await.body, "Colour: blue\n");
}

async fn post(app: &axum::Router, path: &str, cookie: &str, form: &str) -> Seen {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::COOKIE, cookie)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    send(
        app,
        request
            .body(Body::from(form.to_owned()))
            .expect("a request"),
    )
    .await
}

#[tokio::test]
async fn a_failed_order_leaves_the_cart_as_it_was() {
    let sessions = SessionManager::new(memory().await, Config::default()).expect("sessions");
    let app = typed_state::app(&sessions);
    let added = post(&app, "/add/tea", "", "").await;
    assert_eq!(added.body, "1 items");
    let failed = post(&app, "/order/gold", &added.cookie, "").await;
    assert_eq!(failed.status, StatusCode::BAD_GATEWAY);
    let cart = ask(&app, "/", &added.cookie).await.body;
    assert_eq!(cart, r#"{"items":["tea"],"added":1}"#);
}

/// The shop, with an empty table of users in this folder.
async fn shop(folder: &tempfile::TempDir) -> axum::Router {
    let sessions = SessionManager::new(memory().await, Config::default()).expect("sessions");
    let url = format!("sqlite://{}/users.sqlite?mode=rwc", folder.path().display());
    login::app(&sessions, login::Users::open(&url).await.expect("users"))
}

#[tokio::test]
async fn a_cart_survives_signing_up_and_is_gone_after_signing_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = shop(&folder).await;
    let guest = post(&app, "/cart", "", "item=%3Ctea%3E").await.cookie;
    let ada = "name=ada&password=lovelace";
    let first = post(&app, "/signup", &guest, ada).await;
    assert_eq!(first.status, StatusCode::SEE_OTHER, "{}", first.body);
    assert_ne!(first.cookie, guest);
    let page = ask(&app, "/", &first.cookie).await.body;
    assert!(
        page.contains("Hello ada") && page.contains("&lt;tea&gt;"),
        "{page}"
    );
    assert!(!ask(&app, "/", &guest).await.body.contains("Hello"));
    let taken = post(&app, "/signup", "", ada).await;
    assert!(taken.body.contains("This name is taken."), "{}", taken.body);
    for wrong in ["name=ada&password=byron", "name=bob&password=lovelace"] {
        let refused = post(&app, "/login", "", wrong).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert!(refused.body.contains("Wrong name or password."));
    }
    post(&app, "/logout", &first.cookie, "").await;
    let page = ask(&app, "/", &first.cookie).await.body;
    assert!(!page.contains("Hello") && !page.contains("tea"), "{page}");
}

#[tokio::test]
async fn signing_in_returns_to_the_requested_page_and_never_to_another_site() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = shop(&folder).await;
    post(&app, "/signup", "", "name=ada&password=lovelace").await;
    let request = Request::get("/devices").header(header::ACCEPT, "text/html");
    let asked = send(&app, request.body(Body::empty()).expect("a request")).await;
    assert_eq!(asked.headers[header::LOCATION], "/login?next=%2Fdevices");
    let form = ask(&app, "/login?next=%2Fdevices", "").await.body;
    assert!(form.contains(r#"name=next value="/devices""#), "{form}");
    for (next, to) in [("%2Fdevices", "/devices"), ("%2F%2Fevil.example", "/")] {
        let form = format!("name=ada&password=lovelace&next={next}&remember=on");
        let back = post(&app, "/login", "", &form).await;
        assert_eq!(back.headers[header::LOCATION], to);
        let cookie = back.set_cookie.expect("a cookie");
        assert!(cookie.ends_with("Max-Age=2592000"), "{cookie}");
    }
}

#[tokio::test]
async fn a_member_can_sign_out_other_devices_and_a_new_password_does_so_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = shop(&folder).await;
    let ada = "name=ada&password=lovelace";
    let mine = post(&app, "/signup", "", ada).await.cookie;
    let phone = post(&app, "/login", "", ada).await.cookie;
    let devices = ask(&app, "/devices", &mine).await.body;
    let (_, path) = devices.split_once("action=/devices/").expect("a form");
    let (short_id, _) = path.split_once('/').expect("a short id");
    let ended = post(&app, &format!("/devices/{short_id}/end"), &mine, "").await;
    assert_eq!(ended.headers[header::LOCATION], "/devices");
    let devices = ask(&app, "/devices", &mine).await.body;
    assert!(
        devices.contains("It is signed out.") && !devices.contains(short_id),
        "{devices}"
    );
    assert_eq!(
        ask(&app, "/devices", &phone).await.status,
        StatusCode::UNAUTHORIZED
    );
    let office = post(&app, "/login", "", ada).await.cookie;
    let changed = post(&app, "/password", &mine, "password=difference+engine").await;
    assert_eq!(changed.headers[header::LOCATION], "/devices");
    let page = ask(&app, "/devices", &changed.cookie).await.body;
    assert!(page.contains("The password has changed."), "{page}");
    for old in [&mine, &office] {
        assert_eq!(
            ask(&app, "/devices", old).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    assert_eq!(
        post(&app, "/login", "", ada).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn an_api_client_sends_its_id_in_a_header() {
    let sessions = SessionManager::new(memory().await, api_token::config()).expect("sessions");
    let app = api_token::app(&sessions);
    let first = ask(&app, "/", "").await;
    assert_eq!((first.body.as_str(), first.set_cookie), ("Call 1\n", None));
    let id = first.headers["x-auth-token"]
        .to_str()
        .expect("text")
        .to_owned();
    for (name, value) in [
        ("x-auth-token", id.clone()),
        ("authorization", format!("Bearer {id}")),
    ] {
        let request = Request::get("/").header(name, value).body(Body::empty());
        let next = send(&app, request.expect("a request")).await;
        assert!(next.body.starts_with("Call "), "{}", next.body);
        assert_ne!(next.body, "Call 1\n", "{name}");
    }
    let by_cookie = ask(&app, "/", &format!("sessionid={id}")).await;
    assert_eq!(by_cookie.body, "Call 1\n", "cookies are not read");
}

#[tokio::test]
async fn any_store_of_tower_sessions_counts_every_visit() {
    let app = tower_sessions_store::app(&tower_sessions_store::sessions().expect("sessions"));
    let cookie = ask(&app, "/", "").await.cookie;
    let asking = (0..50).map(|_| ask(&app, "/", &cookie));
    futures_util::future::join_all(asking).await;
    assert_eq!(ask(&app, "/", &cookie).await.body, "Visit count: 52");
}
