//! Takes back what a failed request changed, and nothing that others changed since.
//!
//! Field by field: one that nobody has written since gets its old value, one that others wrote stays as they
//! wrote it. What a number means is for the state alone to know: [`SessionState::revert`].

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::{
    envelope::Envelope,
    state::{SessionState, fields},
};

/// One change of a request: the session before and after it.
#[derive(Debug)]
pub struct Change<S> {
    pub before: Arc<Envelope<S>>,
    pub after: Arc<Envelope<S>>,
}

/// Takes the changes back, the last one first; but nobody is signed in again by that.
pub fn take_back<S: SessionState>(changes: &[Change<S>], stored: &mut Envelope<S>) {
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
        let state = without(&change.before.state, &change.after.state, &stored.state);
        // What was a state before the fields were put back is one after.
        if let Some(state) = state {
            stored.state = state;
        }
    }
}

/// The newest state without the step from `before` to `after`; `None`: it stays.
fn without<S: SessionState>(before: &S, after: &S, newest: &S) -> Option<S> {
    let all = (fields(before), fields(after), fields(newest));
    let (Some(old), Some(done), Some(mut fields_now)) = all else {
        // A state without fields is one field.
        return (newest == after).then(|| before.clone());
    };
    let names: BTreeSet<&String> = old.keys().chain(done.keys()).collect();
    for name in names {
        let (old, done) = (old.get(name), done.get(name));
        if old == done || fields_now.get(name) != done {
            continue;
        }
        match old {
            Some(old) => fields_now.insert(name.clone(), old.clone()),
            None => fields_now.remove(name),
        };
    }
    let mut state: S = serde_json::from_value(Value::Object(fields_now)).ok()?;
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
        step: impl Fn(&mut Counter),
    ) -> (Change<Counter>, Envelope<Counter>) {
        let mut after = before.clone();
        step(&mut after.state);
        let change = Change {
            before: Arc::new(before.clone()),
            after: Arc::new(after.clone()),
        };
        (change, after)
    }

    #[test]
    fn alone_it_restores_what_was() {
        let start = Envelope::new(Counter::default());
        let (first, after) = change(&start, |counter| {
            counter.add();
        });
        let (second, mut stored) = change(&after, |counter| {
            counter.other.insert("colour".to_owned(), "blue".into());
        });
        take_back(&[first, second], &mut stored);
        assert_eq!(stored, start);
    }

    #[test]
    fn a_number_that_others_wrote_stays_as_they_wrote_it() {
        let start = Envelope::new(Counter::default());
        let set = |value: u64| {
            move |counter: &mut Counter| _ = counter.other.insert("level".to_owned(), value.into())
        };
        let (_, before) = change(&start, set(41));
        let (failed, mut stored) = change(&before, set(42));
        set(50)(&mut stored.state);
        take_back(&[failed], &mut stored);
        assert_eq!(stored.state.other["level"], 50);
    }

    #[test]
    fn a_state_without_fields_is_restored_as_a_whole() {
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        struct Bare(u64);
        impl SessionState for Bare {}
        let change = Change {
            before: Arc::new(Envelope::new(Bare(1))),
            after: Arc::new(Envelope::new(Bare(2))),
        };
        let mut envelope = Envelope::new(Bare(2));
        take_back(std::slice::from_ref(&change), &mut envelope);
        assert_eq!(envelope.state, Bare(1));
        envelope.state = Bare(3);
        take_back(&[change], &mut envelope);
        assert_eq!(envelope.state, Bare(3), "others wrote it since");
    }

    #[test]
    fn a_count_that_was_reset_since_stays() {
        let start = Envelope::new(Counter {
            count: 5,
            ..Counter::default()
        });
        let (failed, mut stored) = change(&start, |counter| _ = counter.add());
        stored.state.reset();
        stored.state.add();
        take_back(&[failed], &mut stored);
        assert_eq!(stored.state.count, 1);
    }

    #[test]
    fn what_others_did_since_stays() {
        let (failed, mut stored) = change(&Envelope::new(Counter::default()), |counter| {
            counter.add();
        });
        stored.state.add();
        let other = &mut stored.state.other;
        other.insert("colour".to_owned(), "blue".into());
        take_back(&[failed], &mut stored);
        assert_eq!(stored.state.count, 1);
        assert_eq!(stored.state.other["colour"], "blue");
    }
}
