//! What stands at every other address.

use leptos::prelude::*;

use crate::server::page::Page;

/// The page. Asks for no session.
pub async fn page() -> Page {
    Page::not_found(|| view! { <NotFoundPage/> })
}

#[component]
fn NotFoundPage() -> impl IntoView {
    view! {
        <p class="status" aria-hidden="true">"404"</p>
        <h1>"This page does not exist"</h1>
        <p>"Nothing was counted. The counter is "<a href="/">"one step away"</a>"."</p>
    }
}
