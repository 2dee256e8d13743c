//! What the visitor asks for: shown at once, done by the server one after the other, and put back where the server
//! could not. The queue knows nothing of what an action does.

use std::{collections::VecDeque, fmt, future::Future, pin::Pin, sync::Arc};

use leptos::{prelude::*, task::spawn_local};

use crate::call_error::CallError;

/// A state that the server has and pages show.
pub trait Confirmed: Clone + Send + Sync + 'static {
    /// What pages show of it. The default is what they show where there is none.
    type View: Clone + Default + Send + Sync + 'static;

    fn view(&self) -> Self::View;

    /// Grows with each change, so that of two states the later one is known.
    fn revision(&self) -> u64;
}

/// What a call returns: the state after it; `None`: there is none.
pub type Called<S> = Result<Option<S>, CallError>;

type Optimistic<V> = Arc<dyn Fn(&mut V) + Send + Sync>;
type Call<S> = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Called<S>>>> + Send + Sync>;

/// Something that the visitor asks for.
pub struct Action<S: Confirmed> {
    optimistic: Optimistic<S::View>,
    call: Call<S>,
    failure: &'static str,
}

impl<S: Confirmed> Action<S> {
    /// An action that `call` has the server do. Until the server has responded, pages show what `optimistic` makes of
    /// the state. `failure` is a sentence for the visitor: what was not done.
    pub fn new<F>(
        optimistic: impl Fn(&mut S::View) + Send + Sync + 'static,
        call: impl Fn() -> F + Send + Sync + 'static,
        failure: &'static str,
    ) -> Self
    where
        F: Future<Output = Called<S>> + 'static,
    {
        Self {
            optimistic: Arc::new(optimistic),
            call: Arc::new(move || Box::pin(call())),
            failure,
        }
    }
}

impl<S: Confirmed> Clone for Action<S> {
    fn clone(&self) -> Self {
        Self {
            optimistic: Arc::clone(&self.optimistic),
            call: Arc::clone(&self.call),
            failure: self.failure,
        }
    }
}

impl<S: Confirmed> fmt::Debug for Action<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Action({})", self.failure)
    }
}

/// What a page knows of the state.
#[derive(Clone, Debug, PartialEq)]
pub enum Known<S> {
    /// Nothing has asked for it yet.
    Unknown,
    /// There is none.
    None,
    Some(S),
}

/// Actions that were not done, and why.
#[derive(Clone, Debug)]
pub struct Failure<S: Confirmed> {
    pub error: CallError,
    actions: Vec<Action<S>>,
}

impl<S: Confirmed> Failure<S> {
    /// What was not done.
    pub fn what(&self) -> &'static str {
        self.actions.first().map_or("", |action| action.failure)
    }
}

/// The visitor's actions, and what pages know and show. Copies share everything.
pub struct ActionQueue<S: Confirmed> {
    known: RwSignal<Known<S>>,
    waiting: RwSignal<VecDeque<Action<S>>>,
    /// The first of the waiting actions is on its way. A state that arrives before its response may include the action
    /// or not, so it is deferred until the response.
    busy: RwSignal<bool>,
    deferred: StoredValue<Option<S>>,
    pub failure: RwSignal<Option<Failure<S>>>,
}

impl<S: Confirmed> Clone for ActionQueue<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Confirmed> Copy for ActionQueue<S> {}

impl<S: Confirmed> ActionQueue<S> {
    pub fn new(known: Known<S>) -> Self {
        Self {
            known: RwSignal::new(known),
            waiting: RwSignal::new(VecDeque::new()),
            busy: RwSignal::new(false),
            deferred: StoredValue::new(None),
            failure: RwSignal::new(None),
        }
    }

    /// What is known, apart from the actions.
    pub fn known(self) -> RwSignal<Known<S>> {
        self.known
    }

    /// Whether there is a state.
    pub fn has_state(self) -> bool {
        self.known.with(|known| matches!(known, Known::Some(_)))
    }

    /// What pages show: what is known, and what was asked for since. `None`: not known yet.
    pub fn view(self) -> Option<S::View> {
        let mut view = self.known.with(|known| match known {
            Known::Unknown => None,
            Known::None => Some(S::View::default()),
            Known::Some(state) => Some(state.view()),
        })?;
        self.waiting.with(|waiting| {
            for action in waiting {
                (action.optimistic)(&mut view);
            }
        });
        Some(view)
    }

    /// Whether an action is on its way.
    pub fn is_busy(self) -> bool {
        self.busy.get()
    }

    /// Takes over a state that another page, another device or time has made.
    pub fn apply_remote(self, state: S) {
        if self.busy.get_untracked() {
            self.deferred.set_value(Some(state));
        } else {
            self.accept(state);
        }
    }

    /// There is no state any more.
    pub fn apply_ended(self) {
        self.deferred.set_value(None);
        self.known.set(Known::None);
    }

    /// Takes over what is at least as new as what is known.
    fn accept(self, state: S) {
        let is_older = self.known.with_untracked(
            |known| matches!(known, Known::Some(known) if known.revision() > state.revision()),
        );
        if !is_older {
            self.known.set(Known::Some(state));
        }
    }

    /// Shows the action as done, and has it done.
    pub fn submit(self, action: Action<S>) {
        self.failure.set(None);
        self.waiting.update(|waiting| waiting.push_back(action));
        if self.busy.get_untracked() {
            return;
        }
        self.busy.set(true);
        spawn_local(async move {
            while self.call_next().await {}
            self.busy.set(false);
        });
    }

    /// Asks again for what failed.
    pub fn try_again(self) {
        let failed = self.failure.get_untracked();
        for action in failed.map(|failure| failure.actions).unwrap_or_default() {
            self.submit(action);
        }
    }

    /// `false`: no action waits, or it failed.
    async fn call_next(self) -> bool {
        let next = self
            .waiting
            .with_untracked(|waiting| waiting.front().cloned());
        let Some(action) = next else {
            return false;
        };
        let called = (action.call)().await;
        let is_done = called.is_ok();
        match called {
            Ok(state) => {
                self.known.set(state.map_or(Known::None, Known::Some));
                self.waiting.update(|waiting| {
                    waiting.pop_front();
                });
            }
            // What was asked for after it rests on it: all of it waits for the visitor.
            Err(error) => {
                let actions = self
                    .waiting
                    .try_update(|waiting| waiting.drain(..).collect());
                let actions = actions.unwrap_or_default();
                self.failure.set(Some(Failure { error, actions }));
            }
        }
        if let Some(state) = self.deferred.try_update_value(Option::take).flatten() {
            self.accept(state);
        }
        is_done
    }
}
