//! Tally: server-side sessions for Leptos.
//!
//! axum routes requests, Leptos renders the pages, and the browser hydrates the islands. From the outside in:
//!
//! * `server` (server only): settings, routes, layers, assets, connections and shutdown.
//! * [`pages`]: one file for each page, with its handler, its view and its server functions.
//! * `layout` (server only): the HTML document around a page.
//! * [`islands`]: the interactive parts of the pages, and the store that they share.
//! * [`browser`]: browser APIs for the islands.
//! * [`visitor`]: the state in a visitor's session, and the changes to it. Shared by server and browser.
//! * [`client_session`]: the session as open pages know it. Shared by server and browser.
//!
//! Sessions are implemented by the crate `tally_session` in crates/session. The crate `tally_console` in crates/console
//! implements the admin console, which is served at `/admin` if the settings contain a password hash.
//!
//! To build your own app, replace `visitor.rs`, the pages and the islands, and keep the rest.

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

/// The entry point in the browser, called before the islands are hydrated.
#[cfg(feature = "hydrate")]
#[wasm_bindgen::prelude::wasm_bindgen]
pub fn hydrate() {
    std::panic::set_hook(Box::new(|panic| {
        // Hydration panics if a translator or an extension has changed the page. See `layout::start`.
        browser::mark_broken();
        console_error_panic_hook::hook(panic);
    }));
    leptos::mount::hydrate_islands();
}
