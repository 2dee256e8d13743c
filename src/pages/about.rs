//! `/about`: shows whether the browser sends the cookie back, and what the session stores. Counts no visit.

use leptos::prelude::*;

use crate::islands::{Draft, SessionFacts, VisitCount};
use crate::server::page::{Page, PageError};
use crate::visitor::Session;

/// Renders the page. The cookie test passes once, because this deletes the test cookie.
pub async fn page(session: Session) -> Result<Page, PageError> {
    let worked = session.test_cookie_worked().await?;
    if worked {
        session.delete_test_cookie();
        // Save now, so that the page shows the session as it is after this request.
        session.update(|_| ()).await?;
    }
    Ok(Page::new("Your session", &session, move || {
        view! { <AboutPage worked/> }
    }))
}

#[component]
fn AboutPage(
    /// Whether the browser has sent the cookie back.
    worked: bool,
) -> impl IntoView {
    let verdict = if worked {
        "Cookie Tested!"
    } else {
        "Cookie not set or not supported"
    };
    view! {
        <h1>"Your session"</h1>
        <p class="verdict" role="status">{verdict}</p>
        <p>
            "The counter page sets a test value in your session. If it is still there when you open \
             this page, your browser has sent the cookie back."
        </p>
        <VisitCount/>
        <section aria-labelledby="kept">
            <h2 id="kept">"What is stored about you"</h2>
            <SessionFacts/>
        </section>
        <section aria-labelledby="written">
            <h2 id="written">"A draft of your own"</h2>
            <Draft/>
        </section>
    }
}
