//! The list of sessions, and one of them. Nothing here names a session by more than its label.

use leptos::prelude::*;
use serde_json::Value;
use time::OffsetDateTime;

use super::{
    REALM, format,
    layout::{PATH, Page, html},
};
use crate::visitor::{Sessions, Visitor};
use tally_session::SessionError;

type Listed = tally_session::Listed<Visitor>;

/// So many sessions are on a page of the list.
const ON_A_PAGE: u32 = 50;

/// No list is as long; engines count in 64 bits with a sign.
const MOST_SKIPPED: u64 = 1 << 48;

/// What of the list is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The page, from 1.
    pub page: u64,
    /// How the label begins; empty: any.
    pub label: String,
}

impl Query {
    /// Reads an address's query. What makes no sense is the first page.
    pub fn of(text: &str) -> Self {
        let mut query = Self::default();
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                "page" => query.page = value.parse().unwrap_or(0),
                "label" => value.trim().clone_into(&mut query.label),
                _ => {}
            }
        }
        query.page = query.page.max(1);
        query
    }

    fn skip(&self) -> u64 {
        (self.page - 1)
            .saturating_mul(ON_A_PAGE.into())
            .min(MOST_SKIPPED)
    }
}

/// The list of an engine, which `store` names.
///
/// # Errors
/// When the store can't be asked.
pub async fn list(
    sessions: &Sessions,
    store: &str,
    query: &Query,
    own: &str,
) -> Result<Page, SessionError> {
    let (found, order) = if query.label.is_empty() {
        let page = sessions.page(query.skip(), ON_A_PAGE).await?;
        (page, "those that live the longest first")
    } else {
        let found = sessions.search(&query.label, ON_A_PAGE).await?;
        (found, "of the label that was searched")
    };
    let Some(found) = found else {
        return Ok(Page::new("Sessions", html(|| no_list(store))));
    };
    let alive = sessions.count().await?.unwrap_or(0);
    let body = html(|| {
        view! {
            {search(&query.label)}
            {table(&found, order, own)}
            {more(query, found.len()).then(|| view! { <p class="soft">{format!("There may be more than these {ON_A_PAGE}: more of the label finds fewer.")}</p> })}
            {pages(query, alive)}
            {revoke_others()}
        }
    });
    Ok(Page::new("Sessions", body))
}

fn no_list(store: &str) -> impl IntoView + use<> {
    let store = store.to_owned();
    view! {
        <p>
            {store} " has no list of its sessions, so they can be neither listed, searched nor revoked here. \
            Redis and SQLite have one."
        </p>
    }
}

/// Whether a search may have found more than is shown.
fn more(query: &Query, found: usize) -> bool {
    !query.label.is_empty() && found == ON_A_PAGE as usize
}

fn search(label: &str) -> impl IntoView + use<> {
    view! {
        <form class="search" role="search" method="get" action=format!("{PATH}/sessions")>
            <div>
                <label for="label">"Label, or its beginning"</label>
                <input id="label" name="label" value=label.to_owned() autocomplete="off" spellcheck="false"/>
            </div>
            <button>"Search"</button>
        </form>
    }
}

/// `order`: in which order they stand.
fn table(found: &[Listed], order: &'static str, own: &str) -> impl IntoView + use<> {
    if found.is_empty() {
        return view! { <p>"No sessions are here."</p> }.into_any();
    }
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let rows: Vec<_> = found.iter().map(|session| row(session, own, now)).collect();
    view! {
        <div class="scroll">
            <table>
                <caption class="visually-hidden">"Sessions, " {order}</caption>
                <thead>
                    <tr>
                        <th scope="col">"Label"</th>
                        <th scope="col">"Begun"</th>
                        <th scope="col">"Last seen"</th>
                        <th scope="col" class="amount">"Visits"</th>
                        <th scope="col" class="amount">"Size"</th>
                        <th scope="col">"Expires"</th>
                        <th scope="col"><span class="visually-hidden">"Revoke"</span></th>
                    </tr>
                </thead>
                <tbody>{rows}</tbody>
            </table>
        </div>
    }
    .into_any()
}

fn row(session: &Listed, own: &str, now: i64) -> impl IntoView + use<> {
    let stored = session.envelope.as_ref();
    let unreadable = || "unreadable".to_owned();
    let since = |time: i64| format!("{} ago", format::duration(now - time));
    let visits = stored.map_or_else(unreadable, |stored| format::number(stored.state.visits));
    let size = stored.map_or_else(unreadable, |stored| format::size(stored.size()));
    view! {
        <tr>
            <th scope="row"><a href=address(&session.short_id)><code>{session.short_id.clone()}</code></a></th>
            <td>{stored.map(|stored| moment(stored.created_at, since(stored.created_at)))}</td>
            <td>{stored.map(|stored| moment(stored.written(), since(stored.written())))}</td>
            <td class="amount">{visits}</td>
            <td class="amount">{size}</td>
            <td>{moment(session.expires_at, format!("in {}", format::duration(session.expires_at - now)))}</td>
            <td>{revoke_or_own(&session.short_id, own)}</td>
        </tr>
    }
}

fn moment(seconds: i64, text: String) -> impl IntoView {
    view! { <time datetime=format::machine_moment(seconds) title=format::moment(seconds)>{text}</time> }
}

fn revoke_or_own(label: &str, own: &str) -> impl IntoView + use<> {
    if label == own {
        return view! { <span class="soft">"yours"</span> }.into_any();
    }
    let name = format!("Revoke {label}");
    view! {
        <form method="post" action=format!("{}/revoke", address(label))>
            <button aria-label=name>"Revoke"</button>
        </form>
    }
    .into_any()
}

/// Where a session's page is.
fn address(label: &str) -> String {
    format!("{PATH}/sessions/{label}")
}

fn pages(query: &Query, alive: u64) -> impl IntoView + use<> {
    let last = alive.div_ceil(ON_A_PAGE.into()).max(1);
    let number = query.page;
    let to = |page: u64| format!("{PATH}/sessions?page={page}");
    let [page, of] = [number, last].map(format::number);
    let place = format!("Page {page} of {of}, {}", format::sessions(alive));
    query.label.is_empty().then(|| {
        view! {
            <nav class="pages" aria-label="Pages of the list">
                {(number > 1).then(|| view! { <a href=to(number - 1) rel="prev">"Previous"</a> })}
                <span>{place}</span>
                {(number < last).then(|| view! { <a href=to(number + 1) rel="next">"Next"</a> })}
            </nav>
        }
    })
}

fn revoke_others() -> impl IntoView {
    view! {
        <details class="danger">
            <summary>"Revoke all sessions but mine"</summary>
            <p>"Every visitor begins anew, and open pages are told at once. This can’t be taken back."</p>
            <form method="post" action=format!("{PATH}/revoke-others")>
                <button class="trouble">"Revoke them all"</button>
            </form>
        </details>
    }
}

/// One session. Its values are masked until they are asked for.
pub fn one(session: &Listed, own: &str, revealed: bool) -> Page {
    let body = html(|| {
        view! {
            {facts(session)}
            {contents(session, revealed)}
            <div class="actions">
                {(!revealed && session.envelope.is_some()).then(|| reveal(&session.short_id))}
                {revoke_or_own(&session.short_id, own)}
            </div>
            <p><a href=format!("{PATH}/sessions")>"All sessions"</a></p>
        }
    });
    Page::new("Session", body)
}

fn facts(session: &Listed) -> impl IntoView + use<> {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let fact = |name: &'static str, value: String| view! { <dt>{name}</dt><dd>{value}</dd> };
    let at = |time: i64| {
        format!(
            "{}, {} ago",
            format::moment(time),
            format::duration(now - time)
        )
    };
    let known = session.envelope.as_ref().map(|stored| {
        let yes_or_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        view! {
            {fact("Begun", at(stored.created_at))}
            {fact("Last seen", at(stored.written()))}
            {fact("Visits", format::number(stored.state.visits))}
            {fact("Size", format::size(stored.size()))}
            {fact("Cookie came back", yes_or_no(stored.confirmed))}
            {fact("Signed in here", yes_or_no(stored.is_signed_in(REALM)))}
        }
    });
    let ends = format!(
        "{}, in {}",
        format::moment(session.expires_at),
        format::duration(session.expires_at - now)
    );
    view! {
        <dl class="facts">
            {fact("Label", session.short_id.clone())}
            {known}
            {fact("Expires", ends)}
        </dl>
    }
}

fn contents(session: &Listed, revealed: bool) -> impl IntoView + use<> {
    let Some(stored) = &session.envelope else {
        return view! { <p>"What it holds can’t be read."</p> }.into_any();
    };
    let fields = stored.fields();
    let field = |(name, value): (String, Value)| {
        let kind = kind(&value);
        let shown = if revealed {
            in_words(&value)
        } else {
            "••••••".to_owned()
        };
        view! { <tr><th scope="row">{name}</th><td>{kind}</td><td class="value">{shown}</td></tr> }
    };
    view! {
        <div class="scroll">
            <table>
                <caption>"What it holds"</caption>
                <thead><tr><th scope="col">"Field"</th><th scope="col">"Kind"</th><th scope="col">"Value"</th></tr></thead>
                <tbody>{fields.into_iter().map(field).collect::<Vec<_>>()}</tbody>
            </table>
        </div>
    }
    .into_any()
}

/// What a value is, without telling it.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) => "yes or no".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::String(text) => format!("text, {} characters", text.chars().count()),
        Value::Array(values) => format!("list of {}", values.len()),
        Value::Object(fields) => format!("{} fields", fields.len()),
    }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn reveal(label: &str) -> impl IntoView + use<> {
    view! {
        <form method="post" action=format!("{}/reveal", address(label))>
            <button>"Show the values"</button>
        </form>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_makes_no_sense_is_the_first_page() {
        let query = |text| Query::of(text);
        assert_eq!((query("").page, query("page=3").page), (1, 3));
        for nonsense in [
            "page=-1",
            "page=many",
            "page=0",
            "page=99999999999999999999",
        ] {
            assert_eq!(query(nonsense).page, 1, "{nonsense}");
        }
        assert_eq!(query("label=+aB3-").label, "aB3-");
        assert_eq!(query(&format!("page={}", u64::MAX)).skip(), MOST_SKIPPED);
    }

    #[test]
    fn kinds_tell_no_value() {
        let values =
            serde_json::json!({"a": "secret", "b": 7, "c": [1, 2], "d": null, "e": true, "f": {}});
        let kinds: Vec<_> = values
            .as_object()
            .expect("fields")
            .values()
            .map(kind)
            .collect();
        assert_eq!(
            kinds,
            [
                "text, 6 characters",
                "number",
                "list of 2",
                "nothing",
                "yes or no",
                "0 fields"
            ]
        );
    }
}
