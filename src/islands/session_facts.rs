//! What the session holds and how long, for the visitor whose session it is: with one click it
//! stays, with another one it is gone.

use leptos::{either::Either, ev::SubmitEvent, prelude::*};

use super::{
    CallError,
    live::Live,
    orders::{Known, Order, Orders},
};
use crate::visitor::{Shown, Theme};

/// Lets the session live as long again as after a visit, and returns how it is now, as a form.
/// Makes none where there is none.
#[server(endpoint = "stay")]
pub async fn stay() -> Result<String, CallError> {
    let session = tally_session::use_session::<crate::visitor::Visitor>()?;
    session.touch().await?;
    let snapshot = session.snapshot();
    Ok(snapshot.map_or(String::new(), |snapshot| {
        let snapshot = crate::snapshot::Snapshot::from(&snapshot);
        crate::server::encoding::form(|write| snapshot.write(write))
    }))
}

/// Ends the session: record, cookie, and whatever the browser keeps for this site.
#[server(endpoint = "forget")]
pub async fn forget() -> Result<(), CallError> {
    tally_session::use_session::<crate::visitor::Visitor>()?
        .flush()
        .await?;
    crate::server::headers::clear_site_data();
    Ok(())
}

/// The session's beginning, end, content and size.
#[component]
pub fn YourSession() -> impl IntoView {
    let live = expect_context::<Live>();
    let orders = expect_context::<Orders>();
    let exists = Memo::new(move |_| {
        let known = orders.known();
        known.with(|known| matches!(known, Known::Session(_)))
    });
    let order = move |order: Order| {
        move |event: SubmitEvent| {
            event.prevent_default();
            orders.order(order.clone());
        }
    };
    let begun = move || {
        live.age()
            .map_or("…".to_owned(), |age| format!("{} ago", in_words(age)))
    };
    let remaining = move || {
        live.remaining()
            .map_or("…".to_owned(), |left| format!("in {}", in_words(left)))
    };
    let content = move || {
        orders
            .shown()
            .map(|shown| content(&shown))
            .unwrap_or_default()
    };
    let bytes = move || match orders.known().get() {
        Known::Session(snapshot) if snapshot.bytes > 0 => format!("{} bytes", snapshot.bytes),
        _ => "…".to_owned(),
    };
    let facts = move || {
        view! {
            <dl class="facts">
                <dt>"Started"</dt>
                <dd>{begun}</dd>
                <dt>"Ends"</dt>
                <dd><span role="timer">{remaining}</span>", unless you visit again"</dd>
                <dt>"Kept"</dt>
                <dd>{content}</dd>
                <dt>"Size"</dt>
                <dd translate="no">{bytes}</dd>
            </dl>
            <div class="actions">
                <form method="post" action="/api/stay" on:submit=order(Order::Stay)>
                    <button type="submit">"Extend my session"</button>
                </form>
                <form method="post" action="/api/forget" on:submit=order(Order::Forget)>
                    <button type="submit">"Delete my session"</button>
                </form>
            </div>
        }
    };
    view! {
        {move || {
            if exists.get() {
                Either::Left(facts())
            } else {
                Either::Right(view! { <p>"Nothing is kept about you."</p> })
            }
        }}
    }
}

/// What is kept, in words.
fn content(shown: &Shown) -> String {
    let mut parts = vec![format!("your visit count ({})", shown.visits)];
    if shown.theme != Theme::System {
        parts.push(format!("your colours ({})", shown.theme.name()));
    }
    if !shown.draft.is_empty() {
        let characters = shown.draft.chars().count();
        parts.push(format!(
            "your draft ({})",
            counted(characters as i64, "character")
        ));
    }
    parts.join(", ")
}

/// A time span in its two largest units.
fn in_words(seconds: i64) -> String {
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
    fn spans_are_told_in_their_two_largest_units() {
        let spans = [
            (-5, "a moment"),
            (0, "a moment"),
            (1, "1 second"),
            (61, "1 minute and 1 second"),
            (3_600, "1 hour"),
            (7_322, "2 hours and 2 minutes"),
            (1_209_599, "13 days and 23 hours"),
        ];
        for (seconds, words) in spans {
            assert_eq!(in_words(seconds), words);
        }
    }
}
