//! The visit count, and the buttons that change it.

use leptos::{prelude::*, server_fn::ServerFn};

use super::store::{SessionAction, store};
use crate::pages::counter::{Reset, Visit, reset, visit};

/// The count, which moves on click.
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
            <form method="post" action=Visit::PATH on:submit=store.on_submit(one_more)>
                <button type="submit" class="primary">"Count again"</button>
            </form>
            <form method="post" action=Reset::PATH on:submit=store.on_submit(back_to_zero)>
                <button type="submit">"Reset"</button>
            </form>
        </div>
    }
}

fn one_more() -> SessionAction {
    let optimistic =
        |view: &mut crate::visitor::VisitorView| view.visits = view.visits.saturating_add(1);
    SessionAction::new(optimistic, visit, "This visit was not counted.")
}

fn back_to_zero() -> SessionAction {
    SessionAction::new(|view| view.visits = 0, reset, "The count was not reset.")
}

/// The count alone, on pages that don't change it.
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

/// The number, made anew at each change so that its entrance is seen.
fn number(visits: Option<u64>) -> impl IntoView {
    let text = visits.map_or("…".to_owned(), |visits| visits.to_string());
    view! { <strong translate="no" class="number">{text}</strong> }
}
