//! What islands need of the browser: the stream of the session, whether anybody sees the page. The server compiles this
//! with the islands that use it, and never runs it.

pub mod client;
pub mod json;

use js_sys::Date;
use leptos::prelude::*;
use wasm_bindgen::{JsCast, closure::Closure};
use web_sys::{EventSource, MessageEvent, VisibilityState};

use crate::client_session::SessionEvent;

/// On the document's root once the script has panicked.
pub const BROKEN: &str = "data-broken";

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

/// The stream of the visitor's session, until it is dropped.
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
        on_session_event: impl Fn(SessionEvent) + 'static,
        on_error: impl Fn() + 'static,
    ) -> Option<Self> {
        let source = EventSource::new(path).ok()?;
        let on_message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            let text = event.data().as_string().unwrap_or_default();
            // One that can't be read is another release's.
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
