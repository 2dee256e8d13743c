//! What a session keeps for its application: one typed value.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// The value that a session keeps.
///
/// A change of it is a function that may run more than once, on newer states. So it must depend on the state
/// alone, not on a clock or on the request.
pub trait SessionState:
    Default + Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Corrects `self` after the step from `before` to `after` was taken back, where fields alone don't tell how.
    ///
    /// A failed request's change is taken back field by field: a field that nobody has written since has its
    /// old value again, and one that others wrote stays as they wrote it, as in `newest`. A state that counts
    /// takes its own step from the count here.
    fn revert(&mut self, _before: &Self, _after: &Self, _newest: &Self) {}

    /// What an operator's charts count beside the sessions themselves, such as sign-ups or orders.
    const COUNTERS: &'static [Counter<Self>] = &[];
}

/// A number that rises with changes of a state: a line on an operator's charts.
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
    /// A counter of this name. `added` returns by how much a change raises it. A change that is taken back raises
    /// nothing.
    ///
    /// The name is the one of its metric's label and of its field in the store, so it should stay the same.
    /// [`SessionManager::new`](crate::SessionManager::new) refuses a name that is taken.
    pub const fn new(name: &'static str, added: fn(before: &S, after: &S) -> u64) -> Self {
        Self { name, added }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// By how much the step from `before` to `after` raises it.
    pub(crate) fn added(&self, before: &S, after: &S) -> u64 {
        (self.added)(before, after)
    }
}

/// The names of a state's counters.
pub fn counter_names<S: SessionState>() -> Vec<&'static str> {
    S::COUNTERS.iter().map(Counter::name).collect()
}

/// The fields of a value; `None`: it has none, or can't be encoded.
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

    /// What the sessions of this crate's own tests keep.
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
