//! The visit count, and the buttons that change it.

use leptos::{prelude::*, server_fn::ServerFn};

use super::store::{SessionAction, store};
use crate::pages::counter::{Reset, Visit, reset, visit};

/// The visit count with its buttons.
#[island]
pub fn Counter() -> impl IntoView {
    let store = store();
    let busy = move || store.actions.is_busy().to_string();
    view! {
        <p class="count" role="status" aria-busy=busy>
            <span class="label">"Visit count: "</span>
            {move || number(store.view().map(|view| view.visits))}
        </p>
        <div class="actions">
            <form method="post" action=Visit::PATH on:submit=store.on_submit(count_again)>
                <button type="submit" class="primary">"Count again"</button>
            </form>
            <form method="post" action=Reset::PATH on:submit=store.on_submit(reset_count)>
                <button type="submit">"Reset"</button>
            </form>
        </div>
    }
}

fn count_again() -> SessionAction {
    let optimistic =
        |view: &mut crate::visitor::VisitorView| view.visits = view.visits.saturating_add(1);
    SessionAction::new(optimistic, visit, "This visit was not counted.")
}

fn reset_count() -> SessionAction {
    SessionAction::new(|view| view.visits = 0, reset, "The count was not reset.")
}

/// The visit count without buttons, for pages that don't change it.
#[island]
pub fn VisitCount() -> impl IntoView {
    let store = store();
    view! {
        <p class="count small">
            <span class="label">"Current visit count: "</span>
            {move || number(store.view().map(|view| view.visits))}
        </p>
    }
}

/// Renders the number. Each change creates a new element, so that its CSS animation runs again.
fn number(visits: Option<u64>) -> impl IntoView {
    let text = visits.map_or("…".to_owned(), |visits| visits.to_string());
    view! { <strong translate="no" class="number">{text}</strong> }
}
