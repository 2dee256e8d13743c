//! The application's state in a session: one typed value.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// The type of the value that a session stores for the application.
///
/// A change of the state is a function that may run more than once, each time on a newer state. So its result must
/// depend only on the state, not on a clock or on the request.
pub trait SessionState:
    Default + Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Completes the rollback of a failed request's change from `before` to `after`.
    ///
    /// The core rolls back field by field before it calls this method: in `self`, a field that no other request has
    /// written since has its old value again, and a field that another request has written has the value of `newest`.
    /// Implement it for a state with a counter, to subtract the failed change from the newest count.
    fn revert(&mut self, _before: &Self, _after: &Self, _newest: &Self) {}

    /// The application's own counters, such as sign-ups or orders, for an operator's charts.
    const COUNTERS: &'static [Counter<Self>] = &[];
}

/// A counter that changes of the state increase: a line on an operator's charts.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tally_session::{Counter, SessionState};
///
/// #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
/// struct Shopper {
///     orders: u64,
/// }
///
/// impl SessionState for Shopper {
///     const COUNTERS: &'static [Counter<Self>] =
///         &[Counter::new("orders", |before, after| after.orders.saturating_sub(before.orders))];
/// }
/// ```
#[derive(Debug)]
pub struct Counter<S> {
    name: &'static str,
    added: fn(before: &S, after: &S) -> u64,
}

impl<S> Counter<S> {
    /// Creates a counter. `added` returns by how much a change increases it. A change that is rolled back does not
    /// count.
    ///
    /// The name is the label of the metric and a field in the store, so it should never change.
    /// [`SessionManager::new`](crate::SessionManager::new) rejects a name that is already taken.
    pub const fn new(name: &'static str, added: fn(before: &S, after: &S) -> u64) -> Self {
        Self { name, added }
    }

    /// The counter's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// By how much the change from `before` to `after` increases the counter.
    pub(crate) fn added(&self, before: &S, after: &S) -> u64 {
        (self.added)(before, after)
    }
}

/// The names of a state's counters.
pub fn counter_names<S: SessionState>() -> Vec<&'static str> {
    S::COUNTERS.iter().map(Counter::name).collect()
}

/// The fields of a value. `None`: it has none, or can't be serialized.
pub fn fields(value: &impl Serialize) -> Option<Map<String, Value>> {
    match serde_json::to_value(value).ok()? {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    /// The state of the sessions in this crate's own tests.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    pub struct Counter {
        pub count: u64,
        #[serde(flatten)]
        pub other: BTreeMap<String, Value>,
    }

    impl Counter {
        pub fn add(&mut self) -> u64 {
            self.count += 1;
            self.count
        }

        pub fn reset(&mut self) -> u64 {
            self.count = 0;
            self.count
        }
    }

    impl SessionState for Counter {
        fn revert(&mut self, before: &Self, after: &Self, newest: &Self) {
            if newest.count > after.count {
                self.count = newest.count - added(before, after);
            }
        }

        const COUNTERS: &'static [super::Counter<Self>] =
            &[super::Counter::new("additions", added)];
    }

    fn added(before: &Counter, after: &Counter) -> u64 {
        after.count.saturating_sub(before.count)
    }
}
