//! `/reset`: sets the count to 0. Asks first if a link on another site led here.

use leptos::prelude::*;

use crate::{
    server::{
        origin::CrossSite,
        page::{Page, PageError},
    },
    visitor::Session,
};

/// Renders the page, and resets the count unless another site or a prefetch has made the request.
pub async fn page(
    session: Session,
    CrossSite(from_elsewhere): CrossSite,
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

#[component]
fn ResetPage(
    /// Whether the count was reset. Otherwise the page asks first.
    is_done: bool,
) -> impl IntoView {
    let verdict = if is_done {
        "Visit count has been reset to 0"
    } else {
        "Reset your visit count to 0?"
    };
    view! {
        <h1>"Reset"</h1>
        <p class="verdict" role="status">{verdict}</p>
        {(!is_done).then(|| view! {
            // A load that this page initiates resets the count.
            <form method="get" action="/reset">
                <button type="submit" class="primary">"Reset the count"</button>
            </form>
        })}
        <p><a class="forward" href="/">"Start counting again"</a></p>
    }
}
