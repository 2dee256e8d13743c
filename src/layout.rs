//! The HTML document around a page: head, header and footer.

use leptos::prelude::*;

use crate::{
    browser::BROKEN,
    client_session::SessionEvent,
    islands::{
        ThemeChoice,
        store::{SESSION_TAG, store},
    },
    pages::LINKS,
};

/// The URLs of a page's assets. In a release their names have a hash of the content.
///
/// They are built once and leaked, so that rendering a page copies no strings.
#[derive(Clone, Copy, Debug)]
pub struct AssetNames {
    pub style: &'static str,
    pub icon: &'static str,
    script: &'static str,
    wasm: &'static str,
    /// The inline script that hydrates the islands.
    start: &'static str,
}

impl AssetNames {
    /// Looks up each asset with `name`, which maps a plain file name to the URL to request.
    pub fn new(name: impl Fn(&str) -> String) -> Self {
        let name = |plain| &*name(plain).leak();
        let (script, wasm) = (name("/pkg/tally.js"), name("/pkg/tally.wasm"));
        Self {
            style: name("/pkg/tally.css"),
            icon: name("/icon.svg"),
            script,
            wasm,
            start: start(script, wasm).leak(),
        }
    }
}

/// The script that hydrates the islands.
///
/// Leptos's own component is not used: it puts the nonce into an attribute that style sheets can read, reads a file for
/// each page, and waits until the browser is idle.
fn start(script: &str, wasm: &str) -> String {
    // After a panic the islands' event listeners are still attached and would swallow submits and clicks. These
    // capturing listeners run first and stop them.
    format!(
        "for (const kind of [\"submit\", \"click\"]) addEventListener(kind, event => \
         document.documentElement.hasAttribute({BROKEN:?}) && event.stopImmediatePropagation(), true);\
         import({script:?}).then(tally => tally.default({{ module_or_path: {wasm:?} }}).then(() => {{ \
         tally.hydrate(); \
         for (const island of document.querySelectorAll(\"leptos-island\")) tally[island.dataset.component](island); \
         document.documentElement.setAttribute(\"data-hydrated\", \"\"); }}))"
    )
}

/// The HTML document of a page.
#[component]
pub fn Document(
    title: &'static str,
    /// The session, for the islands.
    session: Option<SessionEvent>,
    /// The HTML of the page.
    body: String,
    /// Under `cargo leptos watch`, the options of the reload script.
    watched: Option<LeptosOptions>,
    assets: AssetNames,
) -> impl IntoView {
    let theme = store().view().unwrap_or_default().theme;
    let session = session.and_then(|session| serde_json::to_string(&session).ok());
    view! {
        <!DOCTYPE html>
        <html lang="en" data-theme=theme.name()>
            <head>
                <meta charset="utf-8"/>
                <meta name="viewport" content="width=device-width, initial-scale=1"/>
                <meta name="color-scheme" content="light dark"/>
                <meta name="description" content="Server-side sessions for Leptos, with nothing lost"/>
                {session.map(|session| view! { <meta name=SESSION_TAG content=session/> })}
                <link rel="stylesheet" id="style" href=assets.style/>
                <link rel="icon" type="image/svg+xml" href=assets.icon/>
                <link rel="manifest" href="/manifest.webmanifest"/>
                {watched.map(|options| view! { <AutoReload options/> })}
                <StartBrowser assets/>
                <title>{format!("{} · Tally", title)}</title>
            </head>
            <body>
                <a class="skip" href="#main">"Skip to content"</a>
                <Header title=title/>
                <main id="main" tabindex="-1" inner_html=body></main>
                <footer>
                    <p>"Your count lives on the server. A small cookie finds it again."</p>
                    <ThemeChoice/>
                </footer>
            </body>
        </html>
    }
}

#[component]
fn Header(title: &'static str) -> impl IntoView {
    let link = |(text, path): (&'static str, &'static str)| {
        let current = (text == title).then_some("page");
        view! { <a href=path aria-current=current>{text}</a> }
    };
    view! {
        <header>
            <a class="brand" href="/" aria-label="Tally, home">
                <span class="mark" aria-hidden="true"></span>
                "Tally"
            </a>
            <nav aria-label="Pages">{LINKS.map(link).to_vec()}</nav>
        </header>
    }
}

/// Preloads and runs the script that hydrates the islands.
#[component]
fn StartBrowser(assets: AssetNames) -> impl IntoView {
    view! {
        <link rel="modulepreload" href=assets.script/>
        <link rel="preload" href=assets.wasm r#as="fetch" r#type="application/wasm" crossorigin=""/>
        <script type="module" nonce=leptos::nonce::use_nonce()>
            {assets.start}
        </script>
    }
}
