//! The page for unknown paths.

use leptos::prelude::*;

use crate::server::page::Page;

/// Renders the page, without loading the session.
pub async fn page() -> Page {
    Page::not_found(|| view! { <NotFoundPage/> })
}

#[component]
fn NotFoundPage() -> impl IntoView {
    view! {
        <p class="status" aria-hidden="true">"404"</p>
        <h1>"This page does not exist"</h1>
        <p>"No visit was counted. "<a href="/">"Go to the counter"</a></p>
    }
}
