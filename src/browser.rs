//! What pages need of the browser: calls of server functions, the stream of news, whether anybody
//! sees the page. The server compiles this with the pages that use it, and never runs it.

use js_sys::Date;
use leptos::{prelude::*, server_fn::ServerFn};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortSignal, EventSource, MessageEvent, RequestInit, Response, UrlSearchParams, VisibilityState,
};

use crate::{
    app::CallError,
    snapshot::{News, REVISION, Read},
};

/// On the document's root once the script has panicked.
pub const BROKEN: &str = "data-broken";

/// How long a call waits for its answer, in milliseconds: longer than the server takes to give up.
const CALL_TIMEOUT: u32 = 20_000;

/// What a server function answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// A number, a text, a truth value, or nothing.
    pub value: JsValue,
    /// The number of the session's last write, as [`crate::snapshot::Snapshot::revision`].
    pub revision: u64,
}

/// Calls a server function as a form would, with its arguments by name. The client that Leptos has
/// for this brings its own encodings along, and hides the answer's headers.
///
/// # Errors
/// What the server said was wrong, or that it could not be asked.
pub async fn call<F: ServerFn>(arguments: &[(&str, &str)]) -> Result<Answer, CallError> {
    if !is_online() {
        return Err(CallError::Offline);
    }
    let broken = |_| CallError::Connection;
    let response = post(F::PATH, arguments).await.map_err(broken)?;
    if !response.ok() {
        return Err(CallError::of_status(response.status()));
    }
    let revision = response.headers().get(REVISION).ok().flatten();
    Ok(Answer {
        value: json(&response).await.map_err(broken)?,
        revision: revision.and_then(|text| text.parse().ok()).unwrap_or(0),
    })
}

/// Reads what the server sent in the form that forms have.
pub fn read<T>(text: &str, read: impl FnOnce(Read) -> T) -> T {
    let fields = UrlSearchParams::new_with_str(text).ok();
    read(&|name| fields.as_ref()?.get(name))
}

async fn post(path: &str, arguments: &[(&str, &str)]) -> Result<Response, JsValue> {
    let body = UrlSearchParams::new()?;
    for (name, value) in arguments {
        body.append(name, value);
    }
    let request = RequestInit::new();
    request.set_method("POST");
    request.set_body(&body);
    request.set_signal(Some(&AbortSignal::timeout_with_u32(CALL_TIMEOUT)));
    let response = JsFuture::from(window().fetch_with_str_and_init(path, &request)).await?;
    response.dyn_into()
}

async fn json(response: &Response) -> Result<JsValue, JsValue> {
    JsFuture::from(response.json()?).await
}

/// Marks the page as one whose script has panicked: from then on its forms and links are the browser's own.
pub fn mark_broken() {
    if let Some(root) = document().document_element() {
        let _ = root.set_attribute(BROKEN, "");
    }
}

/// Whether the browser has a network at all.
pub fn is_online() -> bool {
    window().navigator().on_line()
}

/// Whether somebody may be looking at the page.
pub fn is_visible() -> bool {
    document().visibility_state() == VisibilityState::Visible
}

/// The browser's clock, in seconds. Only differences mean something.
pub fn seconds() -> f64 {
    Date::now() / 1_000.0
}

/// A number from 0 up to 1.
pub fn random() -> f64 {
    js_sys::Math::random()
}

/// The stream of news of the visitor's session, until it is dropped.
pub struct Stream {
    source: EventSource,
    // The browser calls these for as long as the stream is open.
    _on_message: Closure<dyn FnMut(MessageEvent)>,
    _on_error: Closure<dyn FnMut()>,
}

impl Stream {
    /// Opens the stream; `None` where the browser has no such thing. After an error it is of no
    /// more use: the browser's own way to try again knows no limits.
    pub fn open(
        path: &str,
        on_news: impl Fn(News) + 'static,
        on_error: impl Fn() + 'static,
    ) -> Option<Self> {
        let source = EventSource::new(path).ok()?;
        let on_message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            let text = event.data().as_string().unwrap_or_default();
            if let Some(news) = read(&text, News::read) {
                on_news(news);
            }
        });
        let on_error = Closure::<dyn FnMut()>::new(on_error);
        source.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        source.set_onerror(Some(on_error.as_ref().unchecked_ref()));
        Some(Self {
            source,
            _on_message: on_message,
            _on_error: on_error,
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.source.set_onmessage(None);
        self.source.set_onerror(None);
        self.source.close();
    }
}
