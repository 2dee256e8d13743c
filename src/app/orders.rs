//! What the visitor asks for: shown at once, carried out by the server one after the other, and
//! put back where the server could not.

use std::collections::VecDeque;

use leptos::{prelude::*, task::spawn_local};
use wasm_bindgen::JsValue;

use super::{
    CallError,
    draft::KeepDraft,
    home::{Reset, Visit},
    theme::ChooseTheme,
    your_session::{Forget, Stay},
};
use crate::{
    browser::{call, read},
    snapshot::Snapshot,
    visitor::{Shown, Theme},
};

/// Something that the visitor asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    Visit,
    Reset,
    ChooseTheme(Theme),
    KeepDraft(String),
    Stay,
    Forget,
}

impl Order {
    /// What the page shows until the server has answered.
    fn preview(&self, shown: &mut Shown) {
        match self {
            Self::Visit => shown.visits = shown.visits.saturating_add(1),
            Self::Reset => shown.visits = 0,
            Self::ChooseTheme(theme) => shown.theme = *theme,
            Self::KeepDraft(draft) => shown.draft.clone_from(draft),
            Self::Stay => {}
            Self::Forget => *shown = Shown::default(),
        }
    }

    /// Has the server do it, and returns what is known then.
    async fn carry_out(&self, known: Known) -> Result<Known, CallError> {
        let mut snapshot = match known {
            Known::Session(snapshot) => snapshot,
            Known::Nothing | Known::Unknown => Snapshot::default(),
        };
        let shown = &mut snapshot.visitor;
        snapshot.revision = match self {
            Self::Visit => {
                let answer = call::<Visit>(&[]).await?;
                shown.visits = number(&answer.value);
                answer.revision
            }
            Self::Reset => {
                let answer = call::<Reset>(&[]).await?;
                shown.visits = number(&answer.value);
                answer.revision
            }
            Self::ChooseTheme(theme) => {
                let name = theme.name();
                let answer = call::<ChooseTheme>(&[("theme", name)]).await?;
                shown.theme = *theme;
                answer.revision
            }
            Self::KeepDraft(draft) => {
                let answer = call::<KeepDraft>(&[("draft", draft)]).await?;
                shown.draft.clone_from(draft);
                answer.revision
            }
            Self::Stay => {
                let answer = call::<Stay>(&[]).await?;
                let text = answer.value.as_string().unwrap_or_default();
                let snapshot = read(&text, Snapshot::read);
                return Ok(snapshot.map_or(Known::Nothing, Known::Session));
            }
            Self::Forget => {
                call::<Forget>(&[]).await?;
                return Ok(Known::Nothing);
            }
        };
        Ok(Known::Session(snapshot))
    }

    /// What was not done, for the visitor who asked for it.
    pub fn failure(&self) -> &'static str {
        match self {
            Self::Visit => "This visit was not counted.",
            Self::Reset => "The count was not reset.",
            Self::ChooseTheme(_) => "The colours were not kept.",
            Self::KeepDraft(_) => "The draft was not kept.",
            Self::Stay => "The session was not prolonged.",
            Self::Forget => "The session was not ended.",
        }
    }
}

/// Counts stay far below what JavaScript's numbers hold exactly.
fn number(value: &JsValue) -> u64 {
    value.as_f64().unwrap_or(0.0) as u64
}

/// What the page knows of the visitor's session.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Known {
    /// Nobody has asked for it yet.
    #[default]
    Unknown,
    /// There is none.
    Nothing,
    Session(Snapshot),
}

impl Known {
    /// Takes over what is at least as new as what is known.
    fn accept(&mut self, snapshot: Snapshot) {
        let older = matches!(self, Self::Session(known) if known.revision > snapshot.revision);
        if !older {
            *self = Self::Session(snapshot);
        }
    }
}

/// Orders that were not carried out, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub error: CallError,
    pub orders: Vec<Order>,
}

/// The visitor's orders, and what the page knows and shows. One for the whole app.
#[derive(Clone, Copy)]
pub struct Orders {
    known: RwSignal<Known>,
    waiting: RwSignal<VecDeque<Order>>,
    /// The first of the waiting orders is on its way. News that come meanwhile may hold it already
    /// or not, so they wait for the answer.
    busy: RwSignal<bool>,
    held: StoredValue<Option<Snapshot>>,
    pub failure: RwSignal<Option<Failure>>,
}

impl Orders {
    pub fn new(known: Known, error: Option<CallError>) -> Self {
        Self {
            known: RwSignal::new(known),
            waiting: RwSignal::new(VecDeque::new()),
            busy: RwSignal::new(false),
            held: StoredValue::new(None),
            failure: RwSignal::new(error.map(|error| Failure {
                error,
                orders: Vec::new(),
            })),
        }
    }

    /// What is known, for whatever is no business of the orders.
    pub fn known(self) -> RwSignal<Known> {
        self.known
    }

    /// What the page shows: what is known, and what was ordered since. `None`: not known yet.
    pub fn shown(self) -> Option<Shown> {
        let mut shown = match self.known.get() {
            Known::Unknown => return None,
            Known::Nothing => Shown::default(),
            Known::Session(snapshot) => snapshot.visitor,
        };
        self.waiting.with(|waiting| {
            for order in waiting {
                order.preview(&mut shown);
            }
        });
        Some(shown)
    }

    /// Whether an order is on its way.
    pub fn is_busy(self) -> bool {
        self.busy.get()
    }

    /// News of the session, from the stream or from a page's own question.
    pub fn hear(self, snapshot: Snapshot) {
        if self.busy.get_untracked() {
            self.held.set_value(Some(snapshot));
        } else {
            self.known.update(|known| known.accept(snapshot));
        }
    }

    /// The session has ended, elsewhere or by itself.
    pub fn hear_end(self) {
        self.held.set_value(None);
        self.known.set(Known::Nothing);
    }

    /// Shows the order as done, and has it done.
    pub fn order(self, order: Order) {
        self.failure.set(None);
        self.waiting.update(|waiting| waiting.push_back(order));
        if self.busy.get_untracked() {
            return;
        }
        self.busy.set(true);
        spawn_local(async move {
            while self.carry_out_next().await {}
            self.busy.set(false);
        });
    }

    /// Orders again what failed.
    pub fn try_again(self) {
        let failed = self.failure.get_untracked();
        for order in failed.map(|failure| failure.orders).unwrap_or_default() {
            self.order(order);
        }
    }

    /// `false`: there is no order, or it failed.
    async fn carry_out_next(self) -> bool {
        let Some(order) = self
            .waiting
            .with_untracked(|waiting| waiting.front().cloned())
        else {
            return false;
        };
        let answer = order.carry_out(self.known.get_untracked()).await;
        let held = self.held.try_update_value(Option::take).flatten();
        let done = answer.is_ok();
        match answer {
            Ok(known) => {
                self.known.set(known);
                self.waiting.update(|waiting| {
                    waiting.pop_front();
                });
            }
            // What was ordered after it stood on it: all of it waits for the visitor.
            Err(error) => {
                let orders = self
                    .waiting
                    .try_update(|waiting| waiting.drain(..).collect());
                let orders = orders.unwrap_or_default();
                self.failure.set(Some(Failure { error, orders }));
            }
        }
        if let Some(snapshot) = held {
            self.known.update(|known| known.accept(snapshot));
        }
        done
    }
}
