//! What the islands of a page share: the session as the page knows it, the visitor's actions, and the stream.
//!
//! The server makes a store for each page, and lays what it knows into the document. In the browser there is one store,
//! made from that when the first island asks for it.

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

/// The name of the tag in which the server hands the session to the browser, as the event that the stream would begin
/// with. There is none on a page that has asked for no session.
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

/// What the islands of a page share. Copies share everything.
#[derive(Clone, Copy)]
pub struct Store {
    pub actions: ActionQueue<ClientSession>,
    pub live: Live,
}

impl Store {
    /// The store of a page that knows this of the session; `None`: the page has not asked for it.
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

    /// What pages show of the visitor. `None`: not known.
    pub fn view(self) -> Option<VisitorView> {
        self.actions.view()
    }

    /// What a form does on submit, where there is script: it submits this action.
    pub fn on_submit(self, action: impl Fn() -> SessionAction + 'static) -> impl Fn(SubmitEvent) {
        move |event| {
            event.prevent_default();
            self.actions.submit(action());
        }
    }
}

thread_local! {
    /// The browser's one store, and what its signals live in.
    static BROWSERS: OnceCell<(Owner, Store)> = const { OnceCell::new() };
}

/// The store of this page.
pub fn store() -> Store {
    if let Some(store) = use_context::<Store>() {
        return store;
    }
    BROWSERS.with(|cell| {
        let (_, store) = cell.get_or_init(|| {
            let owner = Owner::new_root(None);
            let store = owner.with(|| Store::new(sent_session()));
            (owner, store)
        });
        *store
    })
}

/// What the server laid into this document.
fn sent_session() -> Option<SessionEvent> {
    let tag = document().query_selector(&format!("meta[name={SESSION_TAG}]"));
    let text = tag.ok()??.get_attribute("content")?;
    json::from_slice(text.as_bytes())
}
