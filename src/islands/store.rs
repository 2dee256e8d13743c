//! The store that the islands of a page share: the session as the page knows it, the visitor's actions, and the live
//! connection.
//!
//! The server creates a store for each page and embeds the session in the document. The browser creates its one store
//! from that when the first island asks for it.

use std::cell::OnceCell;

use leptos::{ev::SubmitEvent, prelude::*};

use super::{
    action_queue::{Action, ActionQueue, Confirmed, Known},
    live::Live,
};
use crate::{
    browser::json,
    client_session::{ClientSession, SessionEvent},
    visitor::VisitorView,
};

/// The name of the `meta` tag that carries the session to the browser, encoded as the first event of a stream.
///
/// A page that was rendered without the session has no such tag.
pub const SESSION_TAG: &str = "session";

/// An action on the visitor's session.
pub type SessionAction = Action<ClientSession>;

impl Confirmed for ClientSession {
    type View = VisitorView;

    fn view(&self) -> VisitorView {
        self.visitor.clone()
    }

    fn revision(&self) -> u64 {
        self.revision
    }
}

/// The store of a page. It is a handle: copies share the same data.
#[derive(Clone, Copy)]
pub struct Store {
    pub actions: ActionQueue<ClientSession>,
    pub live: Live,
}

impl Store {
    /// Creates a store. `session` is `None` if the page was rendered without the session.
    pub fn new(session: Option<SessionEvent>) -> Self {
        let known = match session {
            Some(SessionEvent::State(session)) => Known::Some(*session),
            Some(_) => Known::None,
            None => Known::Unknown,
        };
        let actions = ActionQueue::new(known);
        Self {
            actions,
            live: Live::new(actions),
        }
    }

    /// The view of the visitor that pages show, or `None` if it is unknown.
    pub fn view(self) -> Option<VisitorView> {
        self.actions.view()
    }

    /// A submit handler for a form, which submits this action instead of the form.
    pub fn on_submit(self, action: impl Fn() -> SessionAction + 'static) -> impl Fn(SubmitEvent) {
        move |event| {
            event.prevent_default();
            self.actions.submit(action());
        }
    }
}

thread_local! {
    /// The browser's store, and the reactive owner of its signals.
    static BROWSER_STORE: OnceCell<(Owner, Store)> = const { OnceCell::new() };
}

/// Returns the store of this page.
pub fn store() -> Store {
    if let Some(store) = use_context::<Store>() {
        return store;
    }
    BROWSER_STORE.with(|cell| {
        let (_, store) = cell.get_or_init(|| {
            let owner = Owner::new_root(None);
            let store = owner.with(|| Store::new(embedded_session()));
            (owner, store)
        });
        *store
    })
}

/// Reads the session that the server has embedded in the document.
fn embedded_session() -> Option<SessionEvent> {
    let tag = document().query_selector(&format!("meta[name={SESSION_TAG}]"));
    let text = tag.ok()??.get_attribute("content")?;
    json::from_slice(text.as_bytes())
}
