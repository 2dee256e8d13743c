//! `/reset`: sets the count to 0; asks first when another site's link led here.

use leptos::{prelude::*, task::spawn_local};
use leptos_meta::Title;

use super::{CallError, PageState, Trouble, home::reset, take_page_state};

/// The page that resets.
#[component]
pub fn ResetPage() -> impl IntoView {
    let state = take_page_state();
    let done = RwSignal::new(match state {
        PageState::Reset { done } => Some(done),
        _ => None,
    });
    let trouble =
        RwSignal::new((state == PageState::Unavailable).then_some(CallError::Unavailable));
    if state == PageState::Plain {
        Effect::new(move || {
            spawn_local(async move {
                match reset().await {
                    Ok(_) => done.try_set(Some(true)).is_none(),
                    Err(error) => trouble.try_set(Some(error)).is_none(),
                };
            });
        });
    }
    let outcome = move || match done.get() {
        Some(true) => "Visit count has been reset to 0",
        Some(false) => "Reset your visit count to 0?",
        None => "…",
    };
    view! {
        <Title text="Reset"/>
        <h1>"Reset"</h1>
        <p class="verdict" role="status">{outcome}</p>
        <Show when=move || done.get() == Some(false)>
            // Coming from this page itself, the load resets.
            <form method="get" action="/reset">
                <button type="submit" class="primary">"Reset the count"</button>
            </form>
        </Show>
        <Trouble message=trouble/>
        <p><a class="forward" href="/">"Start counting again"</a></p>
    }
}
