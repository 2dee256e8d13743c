//! Notices for the visitor about failed actions, the connection and the end of the session.

use leptos::prelude::*;

use super::{session_facts::extend_action, store::store};

/// The notices. Every page has this island, so it also starts the live connection that all islands share.
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
                    <p>{failure.message()}" "{failure.error.to_string()}</p>
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
                    "Your session has ended. Nothing is stored about you any more. Your next visit starts a new one."
                </p>
            }
        })
    };
    let ending = move || {
        is_ending.get().then(|| {
            view! {
                <div class="notice">
                    <p>"Your session is about to end."</p>
                    <button type="button" on:click=move |_| actions.submit(extend_action())>"Extend my session"</button>
                </div>
            }
        })
    };
    // Screen readers announce changes only in live regions that exist from the start.
    view! {
        <div class="notices">
            <div role="alert">{failed}</div>
            <div role="status">{offline}</div>
            <div role="status">{ended}</div>
            <div role="alert">{ending}</div>
        </div>
    }
}
