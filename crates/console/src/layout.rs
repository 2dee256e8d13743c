//! The document around the console's pages. They are rendered whole by the server and read without
//! script; the site's own pages carry nothing of them.

use axum::{
    http::{HeaderValue, StatusCode},
    response::Response,
};
use leptos::{nonce::Nonce, prelude::*};

use crate::{
    app::AssetNames,
    server::{headers, render},
    visitor::Theme,
};
use tally_session::{Level, Message};

/// Where the console is.
pub const PATH: &str = "/admin";

const STYLE: &str = include_str!("../../style/console.css");
const SCRIPT: &str = include_str!("live.js");

/// A page of the console, ready for its document.
#[derive(Debug)]
pub struct Page {
    pub title: &'static str,
    pub status: StatusCode,
    /// After so many seconds another try is worth it.
    pub retry_after: Option<u64>,
    /// The operator has signed in, and finds the way around.
    pub signed_in: bool,
    pub messages: Vec<Message>,
    /// What stands under the title, as HTML.
    pub body: String,
}

impl Page {
    /// An ordinary page for the operator.
    pub fn new(title: &'static str, body: String) -> Self {
        Self {
            title,
            status: StatusCode::OK,
            retry_after: None,
            signed_in: true,
            messages: Vec::new(),
            body,
        }
    }

    /// Nothing is at the address, which only an operator is told.
    pub fn not_found() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            ..Self::new(
                "Not found",
                html(
                    || view! { <p>"Nothing is here. A session that was here may have ended."</p> },
                ),
            )
        }
    }
}

/// The text of a view.
pub fn html<V: IntoView>(view: impl FnOnce() -> V) -> String {
    render::owned(|| view().into_view().to_html())
}

/// The page in its document, with its content policy: nothing but what stands in it.
pub fn answer(page: Page, assets: &AssetNames, theme: Theme) -> Response {
    let nonce = Nonce::new();
    let (status, retry_after) = (page.status, page.retry_after);
    let document = html(|| document(page, assets, theme, &nonce.to_string()));
    let policy = headers::console_policy(&nonce);
    let mut response = render::document(status, retry_after, policy, document);
    let no_index = HeaderValue::from_static("noindex");
    response.headers_mut().insert("x-robots-tag", no_index);
    response
}

fn document(page: Page, assets: &AssetNames, theme: Theme, nonce: &str) -> impl IntoView + use<> {
    let title = format!("{} – Tally console", page.title);
    let nonce = nonce.to_owned();
    view! {
        <!DOCTYPE html>
        <html lang="en" data-theme=theme.name()>
            <head>
                <meta charset="utf-8"/>
                <meta name="viewport" content="width=device-width, initial-scale=1"/>
                <meta name="color-scheme" content="light dark"/>
                <meta name="robots" content="noindex"/>
                <link rel="stylesheet" href=assets.style.clone()/>
                <link rel="icon" type="image/svg+xml" href=assets.icon.clone()/>
                <style nonce=nonce.clone() inner_html=STYLE></style>
                <title>{title}</title>
            </head>
            <body>
                <a class="skip" href="#main">"Skip to the content"</a>
                <header>
                    <span class="brand">
                        <span class="mark" aria-hidden="true"></span>
                        "Tally console"
                    </span>
                    {page.signed_in.then(|| navigation(page.title))}
                </header>
                <main id="main" tabindex="-1">
                    <h1>{page.title}</h1>
                    <p class="message trouble" role="alert" data-ended hidden>
                        "You are no longer signed in. " <a href=PATH>"Sign in again"</a>
                    </p>
                    {page.messages.into_iter().map(message).collect::<Vec<_>>()}
                    <div inner_html=page.body></div>
                </main>
                <footer>
                    <p>"Times are UTC. Sessions are named by a short hash of their id."</p>
                    {page.signed_in.then(sign_out)}
                </footer>
                {page.signed_in.then(|| view! { <script type="module" nonce=nonce inner_html=SCRIPT></script> })}
            </body>
        </html>
    }
}

fn navigation(title: &str) -> impl IntoView + use<> {
    let current = |page: &str| (title == page).then_some("page");
    view! {
        <nav aria-label="Console">
            <a href=PATH aria-current=current("Overview")>"Overview"</a>
            <a href=format!("{PATH}/sessions") aria-current=current("Sessions")>"Sessions"</a>
        </nav>
    }
}

fn sign_out() -> impl IntoView {
    view! {
        <div class="actions">
            <form method="post" action=format!("{PATH}/sign-out")>
                <button>"Sign out"</button>
            </form>
            <form method="post" action=format!("{PATH}/sign-out-everywhere")>
                <button>"Sign out everywhere"</button>
            </form>
        </div>
    }
}

fn message(message: Message) -> impl IntoView {
    let (class, role) = match message.level {
        Level::Debug | Level::Info | Level::Success => ("message", "status"),
        Level::Warning | Level::Error => ("message trouble", "alert"),
    };
    view! { <p class=class role=role>{message.text}</p> }
}
