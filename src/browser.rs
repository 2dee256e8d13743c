//! Browser APIs for the islands: the session's event stream, page visibility, the clock.
//!
//! The server compiles this module together with the islands that use it, but never runs it.

pub mod client;
pub mod json;

use js_sys::Date;
use leptos::prelude::*;
use wasm_bindgen::{JsCast, closure::Closure};
use web_sys::{EventSource, MessageEvent, VisibilityState};

use crate::client_session::SessionEvent;

/// The attribute that the root element has once the script has panicked.
pub const BROKEN: &str = "data-broken";

/// Marks the page's script as panicked. From then on the browser handles forms and links itself.
pub fn mark_broken() {
    if let Some(root) = document().document_element() {
        let _ = root.set_attribute(BROKEN, "");
    }
}

/// Whether the browser has a network connection.
pub fn is_online() -> bool {
    window().navigator().on_line()
}

/// Whether the page is visible.
pub fn is_visible() -> bool {
    document().visibility_state() == VisibilityState::Visible
}

/// The browser's clock, in seconds. It may be wrong, so use only differences.
pub fn seconds() -> f64 {
    Date::now() / 1_000.0
}

/// A random number from 0 up to, but not including, 1.
pub fn random() -> f64 {
    js_sys::Math::random()
}

/// The event stream of the visitor's session. Dropping it closes the stream.
pub struct Stream {
    source: EventSource,
    // Keeps the callbacks alive for as long as the stream is open.
    _on_message: Closure<dyn FnMut(MessageEvent)>,
    _on_error: Closure<dyn FnMut()>,
}

impl Stream {
    /// Opens the stream. Returns `None` if the browser can't open an `EventSource`.
    ///
    /// The caller must drop the stream after an error, because the browser would reconnect without backing off.
    pub fn open(
        path: &str,
        on_session_event: impl Fn(SessionEvent) + 'static,
        on_error: impl Fn() + 'static,
    ) -> Option<Self> {
        let source = EventSource::new(path).ok()?;
        let on_message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            let text = event.data().as_string().unwrap_or_default();
            // Ignore events that can't be decoded: another release has sent them.
            if let Some(event) = json::from_slice(text.as_bytes()) {
                on_session_event(event);
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
