//! Shows visitors what their session stores and when it ends, with buttons to extend and to delete it.

use leptos::{either::Either, prelude::*, server_fn::ServerFn};

use super::{
    action_queue::Known,
    store::{SessionAction, store},
};
use crate::{
    browser::{client::FetchClient, json::Json},
    call_error::CallError,
    client_session::ClientSession,
    visitor::{Theme, VisitorView},
};

/// Extends the session as a visit does. Does not create a session.
#[server(endpoint = "extend", client = FetchClient, output = Json)]
pub async fn extend() -> Result<Option<ClientSession>, CallError> {
    let session = tally_session::use_session::<crate::visitor::Visitor>()?;
    session.touch().await?;
    Ok(ClientSession::of(&session))
}

/// Deletes the session: its record, its cookie, and everything that the browser stores for this site.
#[server(endpoint = "delete", client = FetchClient, output = Json)]
pub async fn delete() -> Result<Option<ClientSession>, CallError> {
    tally_session::use_session::<crate::visitor::Visitor>()?
        .flush()
        .await?;
    crate::server::headers::clear_site_data();
    Ok(None)
}

/// The action that extends the session.
pub fn extend_action() -> SessionAction {
    SessionAction::new(|_| (), extend, "Your session was not extended.")
}

fn delete_action() -> SessionAction {
    let clear = |view: &mut VisitorView| *view = VisitorView::default();
    SessionAction::new(clear, delete, "Your session was not deleted.")
}

/// The start, end, contents and size of the session.
#[island]
pub fn SessionFacts() -> impl IntoView {
    let store = store();
    let has_session = Memo::new(move |_| store.actions.has_state());
    let started = move || {
        let age = store.live.age();
        age.map_or("…".to_owned(), |age| format!("{} ago", duration(age)))
    };
    let remaining = move || {
        let left = store.live.remaining();
        left.map_or("…".to_owned(), |left| format!("in {}", duration(left)))
    };
    let contents = move || store.view().map(|view| contents(&view)).unwrap_or_default();
    let bytes = move || {
        store.actions.known().with(|known| match known {
            Known::Some(session) => format!("{} bytes", session.bytes),
            _ => "…".to_owned(),
        })
    };
    let facts = move || {
        view! {
            <dl class="facts">
                <dt>"Started"</dt>
                <dd>{started}</dd>
                <dt>"Ends"</dt>
                <dd><span role="timer">{remaining}</span>", unless you visit again"</dd>
                <dt>"Contents"</dt>
                <dd>{contents}</dd>
                <dt>"Size"</dt>
                <dd translate="no">{bytes}</dd>
            </dl>
            <div class="actions">
                <form method="post" action=Extend::PATH on:submit=store.on_submit(extend_action)>
                    <button type="submit">"Extend my session"</button>
                </form>
                <form method="post" action=Delete::PATH on:submit=store.on_submit(delete_action)>
                    <button type="submit">"Delete my session"</button>
                </form>
            </div>
        }
    };
    move || {
        if has_session.get() {
            Either::Left(facts())
        } else {
            Either::Right(view! { <p>"Nothing is stored about you."</p> })
        }
    }
}

/// Lists the contents of the session.
fn contents(view: &VisitorView) -> String {
    let mut parts = vec![format!("your visit count ({})", view.visits)];
    if view.theme != Theme::System {
        parts.push(format!("your colours ({})", view.theme.name()));
    }
    if !view.draft.is_empty() {
        let characters = view.draft.chars().count();
        parts.push(format!(
            "your draft ({})",
            counted(characters as i64, "character")
        ));
    }
    parts.join(", ")
}

/// Formats a duration in its two largest units.
fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let parts = [
        (days, "day"),
        (hours, "hour"),
        (minutes, "minute"),
        (seconds % 60, "second"),
    ];
    let first = parts
        .iter()
        .position(|(number, _)| *number > 0)
        .unwrap_or(3);
    let words: Vec<_> = parts[first..]
        .iter()
        .take(2)
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| counted(*number, unit))
        .collect();
    if words.is_empty() {
        "a moment".to_owned()
    } else {
        words.join(" and ")
    }
}

fn counted(number: i64, unit: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_its_two_largest_units() {
        let durations = [
            (-5, "a moment"),
            (0, "a moment"),
            (1, "1 second"),
            (61, "1 minute and 1 second"),
            (3_600, "1 hour"),
            (7_322, "2 hours and 2 minutes"),
            (1_209_599, "13 days and 23 hours"),
        ];
        for (seconds, text) in durations {
            assert_eq!(duration(seconds), text);
        }
    }
}
