//! The document, the layout, and the router; one file below for each page.

pub mod about;
pub mod home;
pub mod not_found;
pub mod reset;

use leptos::{prelude::*, server_fn::codec::JsonEncoding};
use leptos_meta::{MetaTags, Title, provide_meta_context};
use leptos_router::{
    SsrMode,
    components::{A, FlatRoutes, Route, Router},
    path,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::visitor::CookieTest;
use about::AboutPage;
use home::HomePage;
use not_found::NotFoundPage;
use reset::ResetPage;

/// The name of the tag in which the server hands the page's state to the browser.
const STATE_TAG: &str = "page-state";

/// What the server found for the page, before it rendered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageState {
    /// `ended`: the visitor's session was deleted elsewhere just now; this is a new one.
    Home {
        visits: u64,
        ended: bool,
    },
    About(CookieTest),
    /// `done`: the count was reset; else the visitor is asked.
    Reset {
        done: bool,
    },
    /// The session store did not answer.
    Unavailable,
    /// A page without state, or one that the browser itself went to and must ask for.
    Plain,
}

/// Why a call failed, as the browser is told it.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum CallError {
    #[error("Your session can't be reached right now. Nothing was changed; please try again.")]
    Unavailable,
    #[error("The connection failed, so the answer is not known. Please reload the page.")]
    Connection,
}

impl FromServerFnError for CallError {
    type Encoder = JsonEncoding;

    fn from_server_fn_error(_: ServerFnErrorErr) -> Self {
        Self::Connection
    }
}

#[cfg(feature = "ssr")]
impl From<crate::session::SessionError> for CallError {
    /// The cause is logged; the visitor learns what it means, and that it is worth another try.
    fn from(error: crate::session::SessionError) -> Self {
        tracing::error!(%error, "a call failed");
        if let Some(options) = use_context::<leptos_axum::ResponseOptions>() {
            options.set_status(axum::http::StatusCode::SERVICE_UNAVAILABLE);
            crate::server::headers::retry_later(&options);
        }
        Self::Unavailable
    }
}

/// Where the page finds its files: names with a hash of the content in a release.
#[derive(Clone, Debug, Default)]
pub struct AssetNames {
    pub style: String,
    pub script: String,
    pub wasm: String,
    pub icon: String,
}

/// The document around the app.
pub fn shell(options: LeptosOptions) -> impl IntoView {
    let assets = use_context::<AssetNames>().unwrap_or_default();
    let state = use_context::<PageState>().unwrap_or(PageState::Plain);
    view! {
        <!DOCTYPE html>
        <html lang="en">
            <head>
                <meta charset="utf-8"/>
                <meta name="viewport" content="width=device-width, initial-scale=1"/>
                <meta name="color-scheme" content="light dark"/>
                <meta name="description" content="Server-side sessions for Leptos, with nothing lost"/>
                <meta name=STATE_TAG content=serde_json::to_string(&state).unwrap_or_default()/>
                <link rel="stylesheet" id="style" href=assets.style.clone()/>
                <link rel="icon" type="image/svg+xml" href=assets.icon.clone()/>
                <link rel="manifest" href="/manifest.webmanifest"/>
                <AutoReload options/>
                <Hydration assets/>
                <MetaTags/>
            </head>
            <body>
                <App/>
            </body>
        </html>
    }
}

/// Starts the browser's half. Leptos's own component puts the nonce into an attribute that style
/// sheets can read, and reads a file for each page.
#[component]
fn Hydration(assets: AssetNames) -> impl IntoView {
    let start = format!(
        "import({:?}).then(tally => tally.default({{ module_or_path: {:?} }}).then(() => tally.hydrate()))",
        assets.script, assets.wasm
    );
    view! {
        <link rel="modulepreload" href=assets.script.clone()/>
        <link rel="preload" href=assets.wasm.clone() r#as="fetch" r#type="application/wasm" crossorigin=""/>
        <script type="module" nonce=leptos::nonce::use_nonce()>
            {start}
        </script>
    }
}

/// The server's state of the first page, until that page has taken it: a page that the browser
/// goes to later asks for its own.
#[derive(Clone, Copy)]
struct FirstPage(StoredValue<PageState>);

/// The state that the server laid into this document, once.
pub(crate) fn take_page_state() -> PageState {
    let Some(FirstPage(state)) = use_context::<FirstPage>() else {
        return PageState::Plain;
    };
    let first = state.get_value();
    state.set_value(PageState::Plain);
    first
}

#[cfg(feature = "ssr")]
fn first_page_state() -> PageState {
    use_context::<PageState>().unwrap_or(PageState::Plain)
}

#[cfg(not(feature = "ssr"))]
fn first_page_state() -> PageState {
    document()
        .query_selector(&format!("meta[name={STATE_TAG}]"))
        .ok()
        .flatten()
        .and_then(|tag| tag.get_attribute("content"))
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or(PageState::Plain)
}

/// Layout and routes. Every route is rendered whole before the head of its answer goes out.
#[component]
pub fn App() -> impl IntoView {
    provide_meta_context();
    provide_context(FirstPage(StoredValue::new(first_page_state())));
    // Tells tests and style sheets that the page listens now.
    Effect::new(|| {
        if let Some(root) = document().document_element() {
            let _ = root.set_attribute("data-hydrated", "");
        }
    });
    view! {
        <Title formatter=|title: String| format!("{title} · Tally")/>
        <Router>
            <a class="skip" href="#main">"Skip to the content"</a>
            <header>
                <a class="brand" href="/" aria-label="Tally, home" rel="external">
                    <span class="mark" aria-hidden="true"></span>
                    "Tally"
                </a>
                <nav aria-label="Pages">
                    <A href="/">"Counter"</A>
                    <A href="/about">"Cookie test"</A>
                    <A href="/reset">"Reset"</A>
                </nav>
            </header>
            <main id="main" tabindex="-1">
                <FlatRoutes fallback=NotFoundPage>
                    <Route path=path!("/") view=HomePage ssr=SsrMode::Async/>
                    <Route path=path!("/about") view=AboutPage ssr=SsrMode::Async/>
                    <Route path=path!("/reset") view=ResetPage ssr=SsrMode::Async/>
                </FlatRoutes>
            </main>
            <footer>
                <p>"Your count lives on the server. A small cookie finds it again."</p>
            </footer>
        </Router>
    }
}

/// What a page says when its session can't be reached.
#[component]
pub(crate) fn Trouble(#[prop(into)] message: Signal<Option<CallError>>) -> impl IntoView {
    view! {
        <p class="trouble" role="alert">
            {move || message.get().map(|error| error.to_string())}
        </p>
    }
}
