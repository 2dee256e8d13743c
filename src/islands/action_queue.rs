//! What the visitor asks for: shown at once, carried out by the server one after the other, and
//! put back where the server could not.

use std::collections::VecDeque;

use leptos::{prelude::*, task::spawn_local};

use super::{
    CallError,
    draft::KeepDraft,
    home::{Reset, Visit},
    theme::ChooseTheme,
    your_session::{Forget, Stay},
};
use crate::{
    browser::{Answer, call, read},
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

    async fn call(&self) -> Result<Answer, CallError> {
        match self {
            Self::Visit => call::<Visit>(&[]).await,
            Self::Reset => call::<Reset>(&[]).await,
            Self::ChooseTheme(theme) => call::<ChooseTheme>(&[("theme", theme.name())]).await,
            Self::KeepDraft(draft) => call::<KeepDraft>(&[("draft", draft)]).await,
            Self::Stay => call::<Stay>(&[]).await,
            Self::Forget => call::<Forget>(&[]).await,
        }
    }

    /// What is known when the server has done it.
    fn outcome(&self, answer: &Answer, known: Known) -> Known {
        let mut snapshot = match (self, known) {
            (Self::Forget, _) => return Known::Nothing,
            (Self::Stay, _) => {
                let text = answer.value.as_string().unwrap_or_default();
                let snapshot = read(&text, Snapshot::read);
                return snapshot.map_or(Known::Nothing, Known::Session);
            }
            (_, Known::Session(snapshot)) => snapshot,
            (_, Known::Nothing | Known::Unknown) => Snapshot::default(),
        };
        self.preview(&mut snapshot.visitor);
        // Others may have visited meanwhile. Counts stay far below what JavaScript's numbers hold.
        if let Some(visits) = answer.value.as_f64() {
            snapshot.visitor.visits = visits as u64;
        }
        snapshot.revision = answer.revision;
        Known::Session(snapshot)
    }

    /// What was not done, for the visitor who asked for it.
    pub fn failure(&self) -> &'static str {
        match self {
            Self::Visit => "This visit was not counted.",
            Self::Reset => "The count was not reset.",
            Self::ChooseTheme(_) => "The colours were not kept.",
            Self::KeepDraft(_) => "The draft was not kept.",
            Self::Stay => "Your session was not extended.",
            Self::Forget => "Your session was not deleted.",
        }
    }
}

/// What the page knows of the visitor's session.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    /// Nobody has asked for it yet.
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

/// Something failed that nobody ordered: a page's own question.
impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self {
            error,
            orders: Vec::new(),
        }
    }
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
            failure: RwSignal::new(error.map(Failure::from)),
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
        let known = self.known.get_untracked();
        let answer = order.call().await;
        let held = self.held.try_update_value(Option::take).flatten();
        let done = answer.is_ok();
        match answer {
            Ok(answer) => {
                self.known.set(order.outcome(&answer, known));
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
