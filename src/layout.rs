//! The document, the layout, and the router; one file below for each page and each of its parts,
//! with the server functions that it calls.

pub mod about;
pub mod draft;
pub mod home;
pub mod live;
pub mod not_found;
pub mod orders;
pub mod reset;
pub mod router;
pub mod theme;
pub mod your_session;

use leptos::{prelude::*, server_fn::codec::JsonEncoding};
use serde::{Deserialize, Serialize};
use thiserror::Error;

#[cfg(feature = "ssr")]
use crate::visitor::TooLong;
use crate::{
    browser::{BROKEN, read},
    snapshot::{Read, Snapshot, Write},
    visitor::{LONGEST_DRAFT, Theme},
};
use live::{Live, Notices};
use orders::{Known, Orders};
use router::{Location, PageLink, Pages, Route};
use theme::ThemeChoice;

/// The name of the tag in which the server hands the page's state to the browser.
const STATE_TAG: &str = "page-state";

/// What the server found for the page, before it rendered it.
#[derive(Clone, Debug, PartialEq)]
pub struct PageState {
    pub route: Route,
    pub page: Page,
    /// The visitor's session, where the page has asked for it and there is one.
    pub snapshot: Option<Snapshot>,
}

/// What a page shows of its own, beside the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `ended`: the visitor's session was deleted elsewhere just now; this is a new one.
    Home { ended: bool },
    /// `worked`: the test mark came back with the cookie.
    About { worked: bool },
    /// `done`: the count was reset; else the visitor is asked.
    Reset { done: bool },
    /// The session store did not answer.
    Unavailable,
    /// The visitor's address has made too many sessions.
    Crowded,
    /// A page without state, or one that the browser itself went to and must ask for.
    Plain,
}

impl PageState {
    /// A page that has asked for nothing.
    pub const PLAIN: Self = Self {
        route: Route::NotFound,
        page: Page::Plain,
        snapshot: None,
    };

    pub fn write(&self, write: Write) {
        let page = match self.page {
            Page::Home { ended: false } => "home",
            Page::Home { ended: true } => "home-ended",
            Page::About { worked: false } => "about",
            Page::About { worked: true } => "about-worked",
            Page::Reset { done: false } => "reset",
            Page::Reset { done: true } => "reset-done",
            Page::Unavailable => "unavailable",
            Page::Crowded => "crowded",
            Page::Plain => return,
        };
        write("page", page);
        write("at", self.route.path());
        if let Some(snapshot) = &self.snapshot {
            snapshot.write(write);
        }
    }

    pub fn read(read: Read) -> Self {
        let page = match read("page").as_deref() {
            Some("home") => Page::Home { ended: false },
            Some("home-ended") => Page::Home { ended: true },
            Some("about") => Page::About { worked: false },
            Some("about-worked") => Page::About { worked: true },
            Some("reset") => Page::Reset { done: false },
            Some("reset-done") => Page::Reset { done: true },
            Some("unavailable") => Page::Unavailable,
            Some("crowded") => Page::Crowded,
            _ => return Self::PLAIN,
        };
        Self {
            route: Route::of(&read("at").unwrap_or_default()),
            page,
            snapshot: Snapshot::read(read),
        }
    }

    fn known(&self) -> Known {
        match (&self.snapshot, self.page) {
            (Some(snapshot), _) => Known::Session(snapshot.clone()),
            (None, Page::Plain | Page::Unavailable | Page::Crowded) => Known::Unknown,
            (None, _) => Known::Nothing,
        }
    }

    fn theme(&self) -> Theme {
        let snapshot = self.snapshot.as_ref();
        snapshot
            .map(|snapshot| snapshot.visitor.theme)
            .unwrap_or_default()
    }
}

/// Why a call failed, as the browser is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum CallError {
    #[error("Your session can't be reached right now; please try again.")]
    Unavailable,
    #[error(
        "Too many new sessions come from your network right now; please try again in a moment."
    )]
    Crowded,
    #[error("The request made no sense to the server.")]
    Malformed,
    #[error("The connection failed before the answer came.")]
    Connection,
    #[error("You are offline.")]
    Offline,
    #[error("It is too long: {LONGEST_DRAFT} characters are the most.")]
    TooLong,
}

impl CallError {
    /// What an answer's status says was wrong.
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            429 => Self::Crowded,
            503 => Self::Unavailable,
            400 => Self::Malformed,
            413 | 422 => Self::TooLong,
            _ => Self::Connection,
        }
    }
}

impl FromServerFnError for CallError {
    type Encoder = JsonEncoding;

    fn from_server_fn_error(error: ServerFnErrorErr) -> Self {
        match error {
            ServerFnErrorErr::Args(_)
            | ServerFnErrorErr::MissingArg(_)
            | ServerFnErrorErr::Deserialization(_)
            | ServerFnErrorErr::Request(_) => Self::malformed(),
            _ => Self::Connection,
        }
    }
}

#[cfg(feature = "ssr")]
impl CallError {
    /// The arguments make no sense: the caller's mistake, which server_fn takes for the server's.
    fn malformed() -> Self {
        if let Some(options) = use_context::<leptos_axum::ResponseOptions>() {
            options.set_status(axum::http::StatusCode::BAD_REQUEST);
        }
        Self::Malformed
    }
}

#[cfg(not(feature = "ssr"))]
impl CallError {
    fn malformed() -> Self {
        Self::Malformed
    }
}

#[cfg(feature = "ssr")]
impl From<TooLong> for CallError {
    fn from(_: TooLong) -> Self {
        if let Some(options) = use_context::<leptos_axum::ResponseOptions>() {
            options.set_status(axum::http::StatusCode::UNPROCESSABLE_ENTITY);
        }
        Self::TooLong
    }
}

#[cfg(feature = "ssr")]
impl From<tally_session::SessionError> for CallError {
    /// The log has the cause; the visitor learns what it means, and that it is worth another try.
    fn from(error: tally_session::SessionError) -> Self {
        let status = error.status();
        if let Some(options) = use_context::<leptos_axum::ResponseOptions>() {
            options.set_status(status);
            if let Some(seconds) = error.retry_after() {
                crate::server::headers::retry_after(&options, seconds);
            }
        }
        Self::of_status(status.as_u16())
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

/// The document around the app; under `watch` with what reloads it. `sent` is the state as the
/// browser shall read it.
pub fn shell(
    watched: Option<LeptosOptions>,
    assets: &AssetNames,
    state: PageState,
    sent: String,
) -> impl IntoView + use<> {
    let (theme, title) = (state.theme().name(), state.route.title());
    view! {
        <!DOCTYPE html>
        <html lang="en" data-theme=theme>
            <head>
                <meta charset="utf-8"/>
                <meta name="viewport" content="width=device-width, initial-scale=1"/>
                <meta name="color-scheme" content="light dark"/>
                <meta name="description" content="Server-side sessions for Leptos, with nothing lost"/>
                <meta name=STATE_TAG content=sent/>
                <link rel="stylesheet" id="style" href=assets.style.clone()/>
                <link rel="icon" type="image/svg+xml" href=assets.icon.clone()/>
                <link rel="manifest" href="/manifest.webmanifest"/>
                {watched.map(|options| view! { <AutoReload options/> })}
                {start_browser(assets)}
                <title>{title}</title>
            </head>
            <body>
                <App state/>
            </body>
        </html>
    }
}

/// What starts the browser's half. Leptos's own component puts the nonce into an attribute that style
/// sheets can read, and reads a file for each page.
fn start_browser(assets: &AssetNames) -> impl IntoView + use<> {
    // What a panic leaves behind still listens, and would swallow what the visitor does: so these come first.
    let start = format!(
        "for (const kind of [\"submit\", \"click\"]) addEventListener(kind, event => \
         document.documentElement.hasAttribute({BROKEN:?}) && event.stopImmediatePropagation(), true);\
         import({:?}).then(tally => tally.default({{ module_or_path: {:?} }}).then(() => tally.hydrate()))",
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
struct FirstPage(StoredValue<Page>);

/// The state that the server laid into this document, once.
pub(crate) fn take_page() -> Page {
    let Some(FirstPage(page)) = use_context::<FirstPage>() else {
        return Page::Plain;
    };
    let first = page.get_value();
    page.set_value(Page::Plain);
    first
}

/// The state that the server laid into this document; in the browser alone.
pub fn sent_state() -> PageState {
    document()
        .query_selector(&format!("meta[name={STATE_TAG}]"))
        .ok()
        .flatten()
        .and_then(|tag| tag.get_attribute("content"))
        .map_or(PageState::PLAIN, |text| read(&text, PageState::read))
}

/// The layout around the pages.
#[component]
pub fn App(state: PageState) -> impl IntoView {
    let error = match state.page {
        Page::Unavailable => Some(CallError::Unavailable),
        Page::Crowded => Some(CallError::Crowded),
        _ => None,
    };
    let orders = Orders::new(state.known(), error);
    let live = Live::new(orders);
    provide_context(FirstPage(StoredValue::new(state.page)));
    provide_context(orders);
    provide_context(live);
    let location = Location::new(state.route);
    provide_context(location);
    // Tells tests and style sheets that the page listens now.
    Effect::new(move || {
        live.start();
        location.start();
        if let Some(root) = document().document_element() {
            let _ = root.set_attribute("data-hydrated", "");
        }
    });
    view! {
            <a class="skip" href="#main">"Skip to the content"</a>
            <header>
                <a class="brand" href="/" aria-label="Tally, home" rel="external">
                    <span class="mark" aria-hidden="true"></span>
                    "Tally"
                </a>
                <nav aria-label="Pages">
                    <PageLink route=Route::Home text="Counter"/>
                    <PageLink route=Route::About text="Your session"/>
                    <PageLink route=Route::Reset text="Reset"/>
                </nav>
            </header>
            <main id="main" tabindex="-1">
                <Pages/>
                <Notices/>
            </main>
            <footer>
                <p>"Your count lives on the server. A small cookie finds it again."</p>
                <ThemeChoice/>
            </footer>
    }
}
