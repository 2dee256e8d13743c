//! `/reset`: sets the count to 0; asks first when another site's link led here.

use leptos::prelude::*;

use crate::{
    server::{
        origin::FromElsewhere,
        page::{Page, PageError},
    },
    visitor::Session,
};

/// The page. Another site's link must not reset a visitor's count, nor a request whose response nobody may see.
pub async fn page(
    session: Session,
    FromElsewhere(from_elsewhere): FromElsewhere,
) -> Result<Page, PageError> {
    let resets = !from_elsewhere && !session.is_dry_run();
    if resets {
        session.update(|visitor| visitor.reset()).await?;
    } else {
        session.read().await?;
    }
    Ok(Page::new("Reset", &session, move || {
        view! { <ResetPage is_done=resets/> }
    }))
}

/// `is_done`: the count was reset; else the visitor is asked.
#[component]
fn ResetPage(is_done: bool) -> impl IntoView {
    let verdict = if is_done {
        "Visit count has been reset to 0"
    } else {
        "Reset your visit count to 0?"
    };
    view! {
        <h1>"Reset"</h1>
        <p class="verdict" role="status">{verdict}</p>
        {(!is_done).then(|| view! {
            // Coming from this page itself, the load resets.
            <form method="get" action="/reset">
                <button type="submit" class="primary">"Reset the count"</button>
            </form>
        })}
        <p><a class="forward" href="/">"Start counting again"</a></p>
    }
}
