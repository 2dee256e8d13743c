//! `/about`: did the cookie come back, and what does the session hold? It never counts a visit.

use leptos::{prelude::*, task::spawn_local};

use super::{
    CallError, Page, PageState, draft::Draft, orders::Orders, take_page, your_session::YourSession,
};
use crate::browser::{call, read};

/// Takes the test mark from the session and returns what the page shows, as a form.
#[server(endpoint = "test-cookie")]
pub async fn test_cookie() -> Result<String, CallError> {
    let session = tally_session::use_session::<crate::visitor::Visitor>()?;
    let state = crate::server::pages::about(&session).await?;
    Ok(crate::server::encoding::form(|write| state.write(write)))
}

/// The cookie test's page.
#[component]
pub fn AboutPage() -> impl IntoView {
    let orders = expect_context::<Orders>();
    let page = take_page();
    let worked = RwSignal::new(match page {
        Page::About { worked } => Some(worked),
        _ => None,
    });
    if page == Page::Plain {
        Effect::new(move || {
            spawn_local(async move {
                match call::<TestCookie>(&[]).await {
                    Ok(answer) => {
                        let text = answer.value.as_string().unwrap_or_default();
                        let state = read(&text, PageState::read);
                        worked.try_set(Some(state.page == Page::About { worked: true }));
                        match state.snapshot {
                            Some(snapshot) => orders.hear(snapshot),
                            None => orders.hear_end(),
                        }
                    }
                    Err(error) => orders.failure.set(Some(error.into())),
                }
            });
        });
    }
    let verdict = move || match worked.get() {
        Some(true) => "Cookie Tested!",
        Some(false) => "Cookie not set or not supported",
        None => "…",
    };
    let visits = move || match orders.shown() {
        Some(shown) if worked.get().is_some() => shown.visits.to_string(),
        _ => "…".to_owned(),
    };
    view! {
        <h1>"Your session"</h1>
        <p class="verdict" role="status">{verdict}</p>
        <p>
            "The counter's page leaves a mark in your session. If it is still there when you come \
             here, your browser has sent the cookie back."
        </p>
        <p class="count small">
            <span class="label">"Current visit count: "</span>
            <strong translate="no" class="number">{visits}</strong>
        </p>
        <section aria-labelledby="kept">
            <h2 id="kept">"What is kept about you"</h2>
            <YourSession/>
        </section>
        <section aria-labelledby="written">
            <h2 id="written">"Something of your own"</h2>
            <Draft/>
        </section>
    }
}
