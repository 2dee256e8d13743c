//! `/about`: did the cookie come back, and what does the session hold? It never counts a visit.

use leptos::prelude::*;

use crate::islands::{Draft, SessionFacts, VisitCount};
use crate::server::page::{Page, PageError};
use crate::visitor::Session;

/// The page. A cookie that has come back counts once: the mark goes.
pub async fn page(session: Session) -> Result<Page, PageError> {
    let worked = session.test_cookie_worked().await?;
    if worked {
        session.delete_test_cookie();
        // Saved now, so that the page is as new as the session.
        session.update(|_| ()).await?;
    }
    Ok(Page::new("Your session", &session, move || {
        view! { <AboutPage worked/> }
    }))
}

/// `worked`: the mark of an earlier visit has come back with the cookie.
#[component]
fn AboutPage(worked: bool) -> impl IntoView {
    let verdict = if worked {
        "Cookie Tested!"
    } else {
        "Cookie not set or not supported"
    };
    view! {
        <h1>"Your session"</h1>
        <p class="verdict" role="status">{verdict}</p>
        <p>
            "The counter's page leaves a mark in your session. If it is still there when you come \
             here, your browser has sent the cookie back."
        </p>
        <VisitCount/>
        <section aria-labelledby="kept">
            <h2 id="kept">"What is kept about you"</h2>
            <SessionFacts/>
        </section>
        <section aria-labelledby="written">
            <h2 id="written">"Something of your own"</h2>
            <Draft/>
        </section>
    }
}
