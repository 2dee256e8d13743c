//! `/`: counts a visit for each load, and on request.

use leptos::{ev::SubmitEvent, prelude::*};

use super::{
    CallError, Page,
    orders::{Order, Orders},
    take_page,
};

/// Counts one visit and returns the new count. A form's redirect shows the count and adds nothing.
#[server(endpoint = "visit")]
pub async fn visit() -> Result<u64, CallError> {
    tally_session::use_session::<crate::visitor::Visitor>()?.set_test_cookie();
    crate::server::forms::update(|visitor| visitor.visit()).await
}

/// Sets the count to 0 and returns it.
#[server(endpoint = "reset")]
pub async fn reset() -> Result<u64, CallError> {
    crate::server::forms::update(|visitor| visitor.reset()).await
}

/// The counter's page.
#[component]
pub fn HomePage() -> impl IntoView {
    let orders = expect_context::<Orders>();
    let page = take_page();
    if page == Page::Plain {
        // The browser came here by itself: that is a visit too.
        Effect::new(move || orders.order(Order::Visit));
    }
    let visits = Memo::new(move |_| orders.shown().map(|shown| shown.visits));
    let on = move |order: Order| {
        move |event: SubmitEvent| {
            event.prevent_default();
            orders.order(order.clone());
        }
    };
    view! {
        <h1>"Every visit counts"</h1>
        <p class="count" role="status" aria-busy=move || orders.is_busy().to_string()>
            <span class="label">"Visit count: "</span>
            <Number visits/>
        </p>
        {(page == Page::Home { ended: true })
            .then(|| view! { <p class="soft">"Your session ended elsewhere. This is a new one."</p> })}
        <div class="actions">
            <form method="post" action="/api/visit" on:submit=on(Order::Visit)>
                <button type="submit" class="primary">"Count again"</button>
            </form>
            <form method="post" action="/api/reset" on:submit=on(Order::Reset)>
                <button type="submit">"Reset"</button>
            </form>
        </div>
    }
}

/// The number, made anew at each change so that its entrance is seen.
#[component]
fn Number(visits: Memo<Option<u64>>) -> impl IntoView {
    move || {
        let text = visits
            .get()
            .map_or("…".to_owned(), |visits| visits.to_string());
        view! { <strong translate="no" class="number">{text}</strong> }
    }
}
