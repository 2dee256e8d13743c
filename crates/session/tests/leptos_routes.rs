//! Sessions with plain `LeptosRoutes`: in a page that is rendered on the server, and in a server function.

mod support;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
};
use leptos::prelude::*;
use leptos_axum::{LeptosRoutes, generate_route_list};
use leptos_router::{
    SsrMode, StaticSegment,
    components::{Route, Router as Pages, Routes},
};
use serde::{Deserialize, Serialize};
use support::{ask, send};
use tally_session::{SessionManager, SessionState, use_session};

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
struct Visitor {
    visits: u64,
}

impl SessionState for Visitor {}

/// Counts a visit. It is called as a server function, and by components that are rendered on the server.
#[server(endpoint = "visit")]
async fn visit() -> Result<u64, ServerFnError> {
    let session = use_session::<Visitor>()?;
    let visits = session.update(|visitor| {
        visitor.visits += 1;
        visitor.visits
    });
    Ok(visits.await?)
}

#[component]
fn Counter() -> impl IntoView {
    let visits = Resource::new(|| (), |()| visit());
    let text = move || {
        visits.get().map(|visits| match visits {
            Ok(visits) => format!("Visit count: {visits}"),
            Err(error) => error.to_string(),
        })
    };
    view! { <Suspense fallback=|| "…">{text}</Suspense> }
}

#[component]
fn App() -> impl IntoView {
    view! {
        <Pages>
            <Routes fallback=|| "Not found">
                <Route path=StaticSegment("") view=Counter ssr=SsrMode::Async/>
                <Route path=StaticSegment("streamed") view=Counter ssr=SsrMode::OutOfOrder/>
            </Routes>
        </Pages>
    }
}

async fn app() -> Router {
    let sessions = SessionManager::<Visitor>::connect("memory:")
        .await
        .expect("sessions");
    let options = LeptosOptions::builder().output_name("app").build();
    Router::new()
        .leptos_routes(&options, generate_route_list(App), App)
        .route(
            "/api/{*function}",
            axum::routing::post(leptos_axum::handle_server_fns),
        )
        .layer(sessions.layer())
        .with_state(options)
}

#[tokio::test]
async fn pages_and_server_functions_share_a_session() {
    let app = app().await;
    let first = ask(&app, "/", "").await;
    assert_eq!(first.status, StatusCode::OK);
    assert!(first.body.contains("Visit count: 1"), "{}", first.body);
    let cookie = first.cookie;
    let second = ask(&app, "/", &cookie).await;
    assert!(second.body.contains("Visit count: 2"), "{}", second.body);
    let call = Request::post("/api/visit").header(header::COOKIE, &cookie);
    let called = send(&app, call.body(Body::empty()).expect("a request")).await;
    assert_eq!((called.status, called.body.as_str()), (StatusCode::OK, "3"));
    let streamed = ask(&app, "/streamed", &cookie).await;
    assert!(
        streamed.body.contains("Visit count: 4"),
        "{}",
        streamed.body
    );
}

#[tokio::test]
async fn creating_a_session_in_a_stream_fails_with_a_helpful_error() {
    let app = app().await;
    let streamed = ask(&app, "/streamed", "").await;
    let is_error = streamed
        .body
        .contains("change the session before the response begins");
    // If the page is ready at once, the session is created before the headers are sent.
    let counted = streamed.body.contains("Visit count: 1") && streamed.set_cookie.is_some();
    assert!(is_error || counted, "{}", streamed.body);
    assert_eq!(
        streamed.set_cookie.is_some(),
        counted,
        "a counted visit sets its cookie"
    );
}
