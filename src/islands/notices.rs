//! What the visitor should know: what happened elsewhere, and what failed.

use leptos::prelude::*;

use super::{session_facts::extending, store::store};

/// The notices. This island is on every page, so it starts what all islands share.
#[island]
pub fn Notices() -> impl IntoView {
    let store = store();
    let (live, actions) = (store.live, store.actions);
    Effect::new(move || live.start());
    let is_ending = Memo::new(move |_| live.is_ending());
    let failed = move || {
        actions.failure.get().map(|failure| {
            view! {
                <div class="notice trouble">
                    <p>{failure.what()}" "{failure.error.to_string()}</p>
                    <button type="button" on:click=move |_| actions.try_again()>"Try again"</button>
                </div>
            }
        })
    };
    let offline = move || {
        (!live.online.get()).then(|| {
            view! { <p class="notice">"You are offline. What you see may be out of date."</p> }
        })
    };
    let ended = move || {
        live.ended.get().then(|| {
            view! {
                <p class="notice">
                    "Your session has ended. Nothing is kept about you any more; your next visit begins a new one."
                </p>
            }
        })
    };
    let ending = move || {
        is_ending.get().then(|| {
            view! {
                <div class="notice">
                    <p>"Your session is about to end."</p>
                    <button type="button" on:click=move |_| actions.submit(extending())>"Extend my session"</button>
                </div>
            }
        })
    };
    // The regions are there from the beginning: screen readers tell what comes into them.
    view! {
        <div class="notices">
            <div role="alert">{failed}</div>
            <div role="status">{offline}</div>
            <div role="status">{ended}</div>
            <div role="alert">{ending}</div>
        </div>
    }
}
