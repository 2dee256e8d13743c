//! Tally: server-side sessions for Leptos.
//!
//! The house, from the outside in:
//!
//! * [`app`]: the document, the layout, the router, and one file for each page.
//! * [`browser`]: what pages need of the browser: calls, the live stream, whether it is seen.
//! * [`visitor`]: what a visitor's session holds and how it may change. Plain data, for both sides.
//! * [`snapshot`]: what an open page knows of a session. Plain data, for both sides.
//! * `server` (server): settings, routes, layers, assets, listening and draining.
//!
//! The sessions themselves are the crate `tally_session`, in crates/session. The operator's console at `/admin`, where
//! the settings have a password, is the crate `tally_console`, in crates/console.
//!
//! To make this your own app, replace `visitor.rs` and the pages; keep the rest.

pub mod app;
pub mod browser;
pub mod snapshot;
pub mod visitor;

#[cfg(feature = "ssr")]
pub mod server;

/// The browser's entry: takes over the page that the server rendered.
#[cfg(feature = "hydrate")]
#[wasm_bindgen::prelude::wasm_bindgen]
pub fn hydrate() {
    std::panic::set_hook(Box::new(|panic| {
        // A translator or an extension may have changed the page before. See app::start_browser.
        browser::mark_broken();
        console_error_panic_hook::hook(panic);
    }));
    leptos::mount::hydrate_body(|| {
        let state = app::sent_state();
        leptos::view! { <app::App state/> }
    });
}
