//! Tally: server-side sessions for Leptos.
//!
//! axum routes the pages, Leptos renders them, and islands hydrate. From the outside in:
//!
//! * `server` (server): settings, routes, layers, assets, listening and draining.
//! * [`pages`]: one file for each page: its handler, its view, the server functions that it calls.
//! * `layout` (server): the document around a page.
//! * [`islands`]: what is interactive, and the one store that all islands of a page share.
//! * [`browser`]: what islands need of the browser: the stream, whether it is seen.
//! * [`visitor`]: what a visitor's session holds and how it may change. Plain data, for both sides.
//! * [`client_session`]: what an open page knows of a session. Plain data, for both sides.
//!
//! The sessions themselves are the crate `tally_session`, in crates/session. The operator's console at `/admin`, where
//! the settings have a password, is the crate `tally_console`, in crates/console.
//!
//! To make this your own app, replace `visitor.rs`, the pages and the islands; keep the rest.

pub mod browser;
pub mod call_error;
pub mod client_session;
pub mod islands;
pub mod pages;
pub mod visitor;

#[cfg(feature = "ssr")]
pub mod layout;
#[cfg(feature = "ssr")]
pub mod server;

/// The browser's entry, before the islands of the page are hydrated.
#[cfg(feature = "hydrate")]
#[wasm_bindgen::prelude::wasm_bindgen]
pub fn hydrate() {
    std::panic::set_hook(Box::new(|panic| {
        // A translator or an extension may have changed the page before. See layout::StartBrowser.
        browser::mark_broken();
        console_error_panic_hook::hook(panic);
    }));
    leptos::mount::hydrate_islands();
}
