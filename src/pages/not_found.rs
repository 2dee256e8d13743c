//! What stands at every other address.

use leptos::prelude::*;

/// The page for an address that leads nowhere.
#[component]
pub fn NotFoundPage() -> impl IntoView {
    view! {
        <p class="status" aria-hidden="true">"404"</p>
        <h1>"This page does not exist"</h1>
        <p>"Nothing was counted. The counter is "<a href="/">"one step away"</a>"."</p>
    }
}
