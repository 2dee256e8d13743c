//! Takes back what a failed request changed, and nothing that others changed since.

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

/// The newest visitor without the step from `before` to `after`. A field that nobody has changed
/// since gets its old value; a number that others changed too loses this step's difference; any
/// other field stays as the others left it.
fn without(before: &Visitor, after: &Visitor, newest: &Visitor) -> Option<Visitor> {
    let (before, after, mut newest) = (fields(before)?, fields(after)?, fields(newest)?);
    let names = before.keys().chain(after.keys());
    for name in names.cloned().collect::<std::collections::BTreeSet<_>>() {
        let (old, done, now) = (before.get(&name), after.get(&name), newest.get(&name));
        if old == done {
            continue;
        }
        let value = if now == done {
            old.cloned()
        } else {
            let integer = |value: Option<&Value>| value.and_then(Value::as_u64);
            match (integer(old), integer(done), integer(now)) {
                (Some(old), Some(done), Some(now)) if done >= old => {
                    Some(now.saturating_sub(done - old).into())
                }
                _ => now.cloned(),
            }
        };
        match value {
            Some(value) => newest.insert(name, value),
            None => newest.remove(&name),
        };
    }
    serde_json::from_value(Value::Object(newest)).ok()
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
