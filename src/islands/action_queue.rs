//! A queue of the visitor's actions, with optimistic updates.
//!
//! An action shows its result at once. The server performs the actions one after the other, and the result is reverted
//! if the server fails. The queue does not depend on what an action does.

use std::{collections::VecDeque, fmt, future::Future, pin::Pin, sync::Arc};

use leptos::{prelude::*, task::spawn_local};

use crate::call_error::CallError;

/// A state as the server has confirmed it.
pub trait Confirmed: Clone + Send + Sync + 'static {
    /// The part of the state that pages show. Without a state they show the default.
    type View: Clone + Default + Send + Sync + 'static;

    fn view(&self) -> Self::View;

    /// Grows with each change. Of two states, the one with the higher revision is newer.
    fn revision(&self) -> u64;
}

/// The result of a call: the state after it, or `None` if there is no state.
pub type Called<S> = Result<Option<S>, CallError>;

type Optimistic<V> = Arc<dyn Fn(&mut V) + Send + Sync>;
type Call<S> = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Called<S>>>> + Send + Sync>;

/// A change that the visitor requests.
pub struct Action<S: Confirmed> {
    optimistic: Optimistic<S::View>,
    call: Call<S>,
    failure: &'static str,
}

impl<S: Confirmed> Action<S> {
    /// Creates an action.
    ///
    /// `call` calls the server. `optimistic` applies the expected change to the view until the response arrives.
    /// `failure` is the message for the visitor if the call fails.
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

/// The state as the page knows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Known<S> {
    /// The page was rendered without loading the state.
    Unknown,
    /// There is no state.
    None,
    Some(S),
}

/// Actions that failed, with the error of the first one.
#[derive(Clone, Debug)]
pub struct Failure<S: Confirmed> {
    pub error: CallError,
    actions: Vec<Action<S>>,
}

impl<S: Confirmed> Failure<S> {
    /// The message of the first action.
    pub fn message(&self) -> &'static str {
        self.actions.first().map_or("", |action| action.failure)
    }
}

/// The queue, together with the confirmed state. It is a handle: copies share the same data.
pub struct ActionQueue<S: Confirmed> {
    known: RwSignal<Known<S>>,
    pending: RwSignal<VecDeque<Action<S>>>,
    /// Whether the call of the first pending action is in flight.
    busy: RwSignal<bool>,
    /// A state that has arrived from elsewhere while a call was in flight. It may or may not include that action, so it
    /// is applied after the response.
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
            pending: RwSignal::new(VecDeque::new()),
            busy: RwSignal::new(false),
            deferred: StoredValue::new(None),
            failure: RwSignal::new(None),
        }
    }

    /// The confirmed state, without the pending actions.
    pub fn known(self) -> RwSignal<Known<S>> {
        self.known
    }

    /// Whether there is a state.
    pub fn has_state(self) -> bool {
        self.known.with(|known| matches!(known, Known::Some(_)))
    }

    /// The view that pages show: the confirmed state with the pending actions applied. `None` if the state is unknown.
    pub fn view(self) -> Option<S::View> {
        let mut view = self.known.with(|known| match known {
            Known::Unknown => None,
            Known::None => Some(S::View::default()),
            Known::Some(state) => Some(state.view()),
        })?;
        self.pending.with(|pending| {
            for action in pending {
                (action.optimistic)(&mut view);
            }
        });
        Some(view)
    }

    /// Whether a call is in flight.
    pub fn is_busy(self) -> bool {
        self.busy.get()
    }

    /// Applies a state that the server has sent because of a change elsewhere.
    pub fn apply_remote(self, state: S) {
        if self.busy.get_untracked() {
            self.deferred.set_value(Some(state));
        } else {
            self.accept(state);
        }
    }

    /// Applies the end of the session: there is no state any more.
    pub fn apply_ended(self) {
        self.deferred.set_value(None);
        self.known.set(Known::None);
    }

    /// Applies a state unless the known one is newer.
    fn accept(self, state: S) {
        let is_older = self.known.with_untracked(
            |known| matches!(known, Known::Some(known) if known.revision() > state.revision()),
        );
        if !is_older {
            self.known.set(Known::Some(state));
        }
    }

    /// Applies an action to the view and queues its call.
    pub fn submit(self, action: Action<S>) {
        self.failure.set(None);
        self.pending.update(|pending| pending.push_back(action));
        if self.busy.get_untracked() {
            return;
        }
        self.busy.set(true);
        spawn_local(async move {
            while self.call_next().await {}
            self.busy.set(false);
        });
    }

    /// Submits the failed actions again.
    pub fn try_again(self) {
        let failed = self.failure.get_untracked();
        for action in failed.map(|failure| failure.actions).unwrap_or_default() {
            self.submit(action);
        }
    }

    /// Calls the server for the next action. Returns `false` if no action is pending or the call has failed.
    async fn call_next(self) -> bool {
        let next = self
            .pending
            .with_untracked(|pending| pending.front().cloned());
        let Some(action) = next else {
            return false;
        };
        let called = (action.call)().await;
        let is_done = called.is_ok();
        match called {
            Ok(state) => {
                self.known.set(state.map_or(Known::None, Known::Some));
                self.pending.update(|pending| {
                    pending.pop_front();
                });
            }
            // Later actions may depend on this one, so all of them wait for the visitor to try again.
            Err(error) => {
                let actions = self
                    .pending
                    .try_update(|pending| pending.drain(..).collect());
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
