//! `/reset`: sets the count to 0; asks first when another site's link led here.

use leptos::prelude::*;

use super::{
    Page,
    orders::{Order, Orders},
    take_page,
};

/// The page that resets.
#[component]
pub fn ResetPage() -> impl IntoView {
    let orders = expect_context::<Orders>();
    let page = take_page();
    let ordered = RwSignal::new(false);
    if page == Page::Plain {
        Effect::new(move || {
            orders.order(Order::Reset);
            ordered.set(true);
        });
    }
    let outcome = move || match page {
        Page::Reset { done: true } => "Visit count has been reset to 0",
        Page::Reset { done: false } => "Reset your visit count to 0?",
        _ if ordered.get() && !orders.is_busy() && orders.failure.with(Option::is_none) => {
            "Visit count has been reset to 0"
        }
        _ => "…",
    };
    view! {
        <h1>"Reset"</h1>
        <p class="verdict" role="status">{outcome}</p>
        {(page == Page::Reset { done: false }).then(|| view! {
            // Coming from this page itself, the load resets.
            <form method="get" action="/reset">
                <button type="submit" class="primary">"Reset the count"</button>
            </form>
        })}
        <p><a class="forward" href="/">"Start counting again"</a></p>
    }
}
