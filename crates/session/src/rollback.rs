//! Rolls back the changes of a failed request, and nothing that other requests have changed since.
//!
//! The rollback works field by field. A field that no other request has written since gets its old value. A field
//! that another request has written keeps the newer value. Only the state itself knows how to subtract from a number:
//! see [`SessionState::revert`].

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::{
    envelope::Envelope,
    state::{SessionState, fields},
};

/// One change: the session before and after it.
#[derive(Debug)]
pub struct Change<S> {
    pub before: Arc<Envelope<S>>,
    pub after: Arc<Envelope<S>>,
}

/// Reverts the changes, the last one first. Sign-ins stay as they are, so a rollback signs nobody in again.
pub fn revert<S: SessionState>(changes: &[Change<S>], stored: &mut Envelope<S>) {
    for change in changes.iter().rev() {
        if stored.expiry == change.after.expiry {
            stored.expiry = change.before.expiry;
        }
        if stored.test_mark == change.after.test_mark {
            stored.test_mark = change.before.test_mark;
        }
        if stored.messages == change.after.messages {
            stored.messages.clone_from(&change.before.messages);
        }
        let state = reverted(&change.before.state, &change.after.state, &stored.state);
        if let Some(state) = state {
            stored.state = state;
        }
    }
}

/// The newest state without the change from `before` to `after`. `None`: the newest state stays.
fn reverted<S: SessionState>(before: &S, after: &S, newest: &S) -> Option<S> {
    let all = (fields(before), fields(after), fields(newest));
    let (Some(old), Some(new), Some(mut current)) = all else {
        // A state without fields is reverted as a whole.
        return (newest == after).then(|| before.clone());
    };
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (old, new) = (old.get(name), new.get(name));
        if old == new || current.get(name) != new {
            continue;
        }
        match old {
            Some(old) => current.insert(name.clone(), old.clone()),
            None => current.remove(name),
        };
    }
    let mut state: S = serde_json::from_value(Value::Object(current)).ok()?;
    state.revert(before, after, newest);
    Some(state)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::state::tests::Counter;

    fn change(
        before: &Envelope<Counter>,
        edit: impl Fn(&mut Counter),
    ) -> (Change<Counter>, Envelope<Counter>) {
        let mut after = before.clone();
        edit(&mut after.state);
        let change = Change {
            before: Arc::new(before.clone()),
            after: Arc::new(after.clone()),
        };
        (change, after)
    }

    #[test]
    fn without_other_changes_a_rollback_restores_the_session() {
        let start = Envelope::new(Counter::default());
        let (first, after) = change(&start, |counter| {
            counter.add();
        });
        let (second, mut stored) = change(&after, |counter| {
            counter.other.insert("colour".to_owned(), "blue".into());
        });
        revert(&[first, second], &mut stored);
        assert_eq!(stored, start);
    }

    #[test]
    fn a_field_that_another_request_wrote_keeps_the_newer_value() {
        let start = Envelope::new(Counter::default());
        let set = |value: u64| {
            move |counter: &mut Counter| _ = counter.other.insert("level".to_owned(), value.into())
        };
        let (_, before) = change(&start, set(41));
        let (failed, mut stored) = change(&before, set(42));
        set(50)(&mut stored.state);
        revert(&[failed], &mut stored);
        assert_eq!(stored.state.other["level"], 50);
    }

    #[test]
    fn a_state_without_fields_is_rolled_back_as_a_whole() {
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        struct Bare(u64);
        impl SessionState for Bare {}
        let change = Change {
            before: Arc::new(Envelope::new(Bare(1))),
            after: Arc::new(Envelope::new(Bare(2))),
        };
        let mut envelope = Envelope::new(Bare(2));
        revert(std::slice::from_ref(&change), &mut envelope);
        assert_eq!(envelope.state, Bare(1));
        envelope.state = Bare(3);
        revert(&[change], &mut envelope);
        assert_eq!(envelope.state, Bare(3), "another request wrote it since");
    }

    #[test]
    fn a_count_that_was_reset_since_is_not_reduced() {
        let start = Envelope::new(Counter {
            count: 5,
            ..Counter::default()
        });
        let (failed, mut stored) = change(&start, |counter| _ = counter.add());
        stored.state.reset();
        stored.state.add();
        revert(&[failed], &mut stored);
        assert_eq!(stored.state.count, 1);
    }

    #[test]
    fn changes_of_other_requests_survive_a_rollback() {
        let (failed, mut stored) = change(&Envelope::new(Counter::default()), |counter| {
            counter.add();
        });
        stored.state.add();
        let other = &mut stored.state.other;
        other.insert("colour".to_owned(), "blue".into());
        revert(&[failed], &mut stored);
        assert_eq!(stored.state.count, 1);
        assert_eq!(stored.state.other["colour"], "blue");
    }
}
