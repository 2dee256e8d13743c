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

    /// How many events that the operator's charts count are in the step from `before` to `after`.
    fn activity(_before: &Self, _after: &Self) -> u64 {
        0
    }
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
                self.count = newest.count - Self::activity(before, after);
            }
        }

        fn activity(before: &Self, after: &Self) -> u64 {
            after.count.saturating_sub(before.count)
        }
    }
}
