//! `/about`: did the cookie come back? It never counts a visit.

use leptos::{prelude::*, task::spawn_local};
use leptos_meta::Title;

use super::{CallError, PageState, Trouble, take_page_state};
use crate::visitor::CookieTest;

/// Takes the test mark from the session and says whether it was there.
#[server(endpoint = "test-cookie")]
pub async fn test_cookie() -> Result<CookieTest, CallError> {
    let session = crate::session::Session::current()?;
    let request = session.request();
    Ok(session
        .update(move |visitor| visitor.take_test_mark(request))
        .await?)
}

/// The cookie test's page.
#[component]
pub fn AboutPage() -> impl IntoView {
    let state = take_page_state();
    let (test, trouble) = match state {
        PageState::About(test) => (Some(test), None),
        PageState::Unavailable => (None, Some(CallError::Unavailable)),
        _ => (None, None),
    };
    let test = RwSignal::new(test);
    let trouble = RwSignal::new(trouble);
    if state == PageState::Plain {
        Effect::new(move || {
            spawn_local(async move {
                match test_cookie().await {
                    Ok(answer) => test.try_set(Some(answer)).is_none(),
                    Err(error) => trouble.try_set(Some(error)).is_none(),
                };
            });
        });
    }
    let verdict = move || match test.get() {
        Some(CookieTest { worked: true, .. }) => "Cookie Tested!",
        Some(_) => "Cookie not set or not supported",
        None => "…",
    };
    let visits = move || {
        test.get()
            .map_or("…".to_owned(), |test| test.visits.to_string())
    };
    view! {
        <Title text="Cookie test"/>
        <h1>"Cookie test"</h1>
        <p class="verdict" role="status">{verdict}</p>
        <p>
            "The counter's page leaves a mark in your session. If it is still there when you come \
             here, your browser has sent the cookie back."
        </p>
        <p class="count small">
            <span class="label">"Current visit count: "</span>
            <strong class="number">{visits}</strong>
        </p>
        <Trouble message=trouble/>
    }
}
