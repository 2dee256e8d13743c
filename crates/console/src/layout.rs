//! The HTML document around the console's pages.
//!
//! The server renders complete documents, which work without JavaScript. The application's own pages load nothing of
//! the console.

use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_SECURITY_POLICY, RETRY_AFTER},
    },
    response::{Extension, Html, IntoResponse, Response},
};
use leptos::{nonce::Nonce, prelude::*};
use tally_session::{Level, Message, SessionState};

use crate::{ColorScheme, Console, mount::Mount, sign_ins};

const STYLE: &str = include_str!("console.css");
const SCRIPT: &str = include_str!("live.js");

/// A rendered page of the console, without the document around it.
#[derive(Clone, Debug)]
pub struct Page {
    pub title: &'static str,
    pub status: StatusCode,
    /// The value of `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// Whether the page has the navigation, the sign-out buttons and the script.
    pub signed_in: bool,
    pub messages: Vec<Message>,
    /// The HTML below the title.
    pub body: String,
}

impl Page {
    /// Creates a page for a signed-in operator.
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

    /// The page for a route that does not accept the request's method.
    pub fn method_not_allowed() -> Self {
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            ..Self::new(
                "Method not allowed",
                html(|| view! { <p>"This address only accepts form submissions."</p> }),
            )
        }
    }

    /// The page for an unknown route, and for a session that does not exist.
    pub fn not_found() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            ..Self::new(
                "Not found",
                html(|| view! { <p>"There is nothing here. The session may have ended."</p> }),
            )
        }
    }
}

/// Stores the page in the response's extensions, where the middleware around the routes finds it and renders its
/// document.
impl IntoResponse for Page {
    fn into_response(self) -> Response {
        (self.status, Extension(self)).into_response()
    }
}

/// Renders a view to HTML, and drops the reactive owner that it used.
pub fn html<V: IntoView>(view: impl FnOnce() -> V) -> String {
    let owner = Owner::new_root(None);
    let html = owner.with(|| view().into_view().to_html());
    owner.unset_with_forced_cleanup();
    html
}

/// Renders the document of a page, with its security headers.
pub fn respond<S: SessionState>(
    page: Page,
    console: &Console<S>,
    mount: &Mount,
    scheme: ColorScheme,
) -> Response {
    let nonce = Nonce::new();
    let (status, retry_after) = (page.status, page.retry_after);
    let icon = console.icon.clone();
    let document = html(|| {
        document(
            page,
            &console.title,
            icon,
            mount,
            scheme,
            &nonce.to_string(),
        )
    });
    let mut headers = HeaderMap::new();
    if let Some(policy) = content_policy(&nonce) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    let no_index = HeaderValue::from_static("noindex");
    headers.insert(HeaderName::from_static("x-robots-tag"), no_index);
    (status, headers, Html(document)).into_response()
}

/// The content security policy: inline script and style with this nonce, and this site's icon, forms and stream.
fn content_policy(nonce: &Nonce) -> Option<HeaderValue> {
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).ok()
}

fn document(
    page: Page,
    name: &str,
    icon: Option<String>,
    mount: &Mount,
    scheme: ColorScheme,
    nonce: &str,
) -> impl IntoView + use<> {
    let title = format!("{} – {name}", page.title);
    let (name, nonce, root) = (name.to_owned(), nonce.to_owned(), mount.root().to_owned());
    let theme = match scheme {
        ColorScheme::System => "system",
        ColorScheme::Light => "light",
        ColorScheme::Dark => "dark",
    };
    let signed_in = page
        .signed_in
        .then(|| (navigation(page.title, mount), sign_out(mount)));
    let (navigation, sign_out) = signed_in.unzip();
    view! {
        <!DOCTYPE html>
        <html lang="en" data-theme=theme>
            <head>
                <meta charset="utf-8"/>
                <meta name="viewport" content="width=device-width, initial-scale=1"/>
                <meta name="color-scheme" content="light dark"/>
                <meta name="robots" content="noindex"/>
                {icon.map(|icon| view! { <link rel="icon" type="image/svg+xml" href=icon/> })}
                <style nonce=nonce.clone() inner_html=STYLE></style>
                <title>{title}</title>
            </head>
            <body>
                <a class="skip" href="#main">"Skip to content"</a>
                <header>
                    <span class="brand">
                        <span class="mark" aria-hidden="true"></span>
                        {name}
                    </span>
                    {navigation}
                </header>
                <main id="main" tabindex="-1">
                    <h1>{page.title}</h1>
                    <p class="message trouble" role="alert" data-ended hidden>
                        "You are no longer signed in. " <a href=root>"Sign in again"</a>
                    </p>
                    {page.messages.into_iter().map(message).collect::<Vec<_>>()}
                    <div inner_html=page.body></div>
                </main>
                <footer>
                    <p>"Times are in UTC. A session’s short id is a hash of its id."</p>
                    {sign_out}
                </footer>
                {page.signed_in.then(|| view! { <script type="module" nonce=nonce inner_html=SCRIPT></script> })}
            </body>
        </html>
    }
}

fn navigation(title: &str, mount: &Mount) -> impl IntoView + use<> {
    let [sessions, sign_ins] = ["/sessions", "/sign-ins"].map(|path| mount.path(path));
    let root = mount.root().to_owned();
    let current = |page: &str| (title == page).then_some("page");
    view! {
        <nav aria-label="Console">
            <a href=root aria-current=current("Overview")>"Overview"</a>
            <a href=sessions aria-current=current("Sessions")>"Sessions"</a>
            <a href=sign_ins aria-current=current(sign_ins::TITLE)>{sign_ins::TITLE}</a>
        </nav>
    }
}

fn sign_out(mount: &Mount) -> impl IntoView + use<> {
    view! {
        <div class="actions">
            <form method="post" action=mount.path("/sign-out")>
                <button>"Sign out"</button>
            </form>
            <form method="post" action=mount.path("/sign-out-everywhere")>
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
