//! Takes back what a failed request changed, and nothing that others changed since.
//!
//! Field by field: one that nobody has written since gets its old value, one that others wrote stays as they
//! wrote it. What a number means is for the state alone to know: [`Visitor::revert`] takes the visits of
//! the failed request from the count that others went on with.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::record::Stored;
use crate::visitor::Visitor;

/// One change of a request: the session before and after it.
#[derive(Debug)]
pub struct Change {
    pub before: Box<Stored>,
    pub after: Box<Stored>,
}

/// Takes the changes back, the last one first; but nobody is signed in again by that.
pub fn take_back(changes: &[Change], stored: &mut Stored) {
    for change in changes.iter().rev() {
        if stored.expiry == change.after.expiry {
            stored.expiry = change.before.expiry;
        }
        if stored.messages == change.after.messages {
            stored.messages.clone_from(&change.before.messages);
        }
        let visitor = without(
            &change.before.visitor,
            &change.after.visitor,
            &stored.visitor,
        );
        // What was a visitor before the fields were put back is one after.
        if let Some(visitor) = visitor {
            stored.visitor = visitor;
        }
    }
}

/// The newest visitor without the step from `before` to `after`.
fn without(before: &Visitor, after: &Visitor, newest: &Visitor) -> Option<Visitor> {
    let (old, done, mut fields_now) = (fields(before)?, fields(after)?, fields(newest)?);
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
    let mut visitor: Visitor = serde_json::from_value(Value::Object(fields_now)).ok()?;
    visitor.revert(before, after, newest);
    Some(visitor)
}

fn fields(visitor: &Visitor) -> Option<Map<String, Value>> {
    match serde_json::to_value(visitor).ok()? {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(before: &Stored, step: impl Fn(&mut Visitor)) -> (Change, Stored) {
        let mut after = before.clone();
        step(&mut after.visitor);
        let change = Change {
            before: Box::new(before.clone()),
            after: Box::new(after.clone()),
        };
        (change, after)
    }

    #[test]
    fn alone_it_restores_what_was() {
        let start = Stored::new(Visitor::default());
        let (first, after) = change(&start, |visitor| {
            visitor.visit(1);
        });
        let (second, mut stored) = change(&after, |visitor| {
            visitor.other.insert("colour".to_owned(), "blue".into());
        });
        take_back(&[first, second], &mut stored);
        assert_eq!(stored, start);
    }

    #[test]
    fn a_number_that_others_wrote_stays_as_they_wrote_it() {
        let start = Stored::new(Visitor::default());
        let set = |value: u64| {
            move |visitor: &mut Visitor| _ = visitor.other.insert("level".to_owned(), value.into())
        };
        let (_, before) = change(&start, set(41));
        let (failed, mut stored) = change(&before, set(42));
        set(50)(&mut stored.visitor);
        take_back(&[failed], &mut stored);
        assert_eq!(stored.visitor.other["level"], 50);
    }

    #[test]
    fn a_count_that_was_reset_since_stays() {
        let start = Stored::new(Visitor {
            visits: 5,
            ..Visitor::default()
        });
        let (failed, mut stored) = change(&start, |visitor| _ = visitor.visit(1));
        stored.visitor.reset();
        stored.visitor.visit(2);
        take_back(&[failed], &mut stored);
        assert_eq!(stored.visitor.visits, 1);
    }

    #[test]
    fn what_others_did_since_stays() {
        let (failed, mut stored) = change(&Stored::new(Visitor::default()), |visitor| {
            visitor.visit(1);
        });
        stored.visitor.visit(2);
        let other = &mut stored.visitor.other;
        other.insert("colour".to_owned(), "blue".into());
        take_back(&[failed], &mut stored);
        assert_eq!(stored.visitor.visits, 1);
        assert_eq!(stored.visitor.test_mark, Some(2));
        assert_eq!(stored.visitor.other["colour"], "blue");
    }
}
