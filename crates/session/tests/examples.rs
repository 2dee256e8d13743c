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
async fn the_counter_counts_tests_its_cookie_and_resets() {
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
        "the mark is gone"
    );
    let reset = ask(&app, "/reset", &first.cookie).await;
    assert_eq!(reset.body, "Visit count has been reset to 0");
    assert_eq!(ask(&app, "/", &first.cookie).await.body, "Visit count: 1");
}

#[tokio::test]
async fn a_message_is_shown_once_after_the_redirect() {
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

#[tokio::test]
async fn a_member_signs_in_under_a_new_id_and_out_again() {
    let sessions = SessionManager::new(memory().await, Config::default()).expect("sessions");
    let app = login::app(&sessions);
    let refused = post(&app, "/login", "", "name=ada&password=byron").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let first = post(&app, "/login", "", "name=ada&password=lovelace").await;
    assert_eq!(ask(&app, "/", &first.cookie).await.body, "Hello ada\n");
    let second = post(&app, "/login", &first.cookie, "name=ada&password=lovelace").await;
    assert_ne!(first.cookie, second.cookie);
    assert_eq!(ask(&app, "/", &first.cookie).await.body, "Please log in\n");
    let out = post(&app, "/logout", &second.cookie, "").await;
    assert_eq!(ask(&app, "/", &out.cookie).await.body, "Please log in\n");
}

#[tokio::test]
async fn a_program_sends_its_id_in_a_header() {
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
