//! The list of sessions, and the page of one session. Both identify a session by its short id only.

use leptos::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use tally_session::{Envelope, Listed, SessionError, SessionState, auth::SignedInUser};
use time::OffsetDateTime;

use crate::{
    Console, REALM, format,
    layout::{Page, html},
    mount::Mount,
};

/// The number of sessions on a page of the list.
const PAGE_SIZE: u32 = 50;

/// The maximum offset into the list. Longer lists don't exist, and engines take a signed 64-bit offset.
const MAX_OFFSET: u64 = 1 << 48;

/// The query of the list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListQuery {
    /// The number of the page. An invalid number selects the first page.
    page: String,
    /// A prefix of the short id; empty for any.
    short_id: String,
    /// The name of a signed-in user; empty for any.
    user: String,
}

impl ListQuery {
    /// The number of the page, from 1.
    fn page(&self) -> u64 {
        self.page.parse().unwrap_or(0).max(1)
    }

    /// Whether the query is a search.
    pub fn is_search(&self) -> bool {
        !self.prefix().is_empty() || !self.user().is_empty()
    }

    fn prefix(&self) -> &str {
        self.short_id.trim()
    }

    fn user(&self) -> &str {
        self.user.trim()
    }

    fn offset(&self) -> u64 {
        (self.page() - 1)
            .saturating_mul(PAGE_SIZE.into())
            .min(MAX_OFFSET)
    }
}

/// What is needed to render any session.
struct Context<'a, S: SessionState> {
    console: &'a Console<S>,
    mount: &'a Mount,
    /// The short id of the operator's own session.
    own: &'a str,
    now: i64,
}

/// Renders a page of the list, or the results of a search.
///
/// # Errors
/// Returns an error if the store fails.
pub async fn list<S: SessionState>(
    console: &Console<S>,
    mount: &Mount,
    query: &ListQuery,
    own: &str,
) -> Result<Page, SessionError> {
    let sessions = &console.sessions;
    let (found, caption) = if !query.user().is_empty() {
        let found = sessions
            .search_user(query.user(), PAGE_SIZE as usize)
            .await?;
        (found, "of this user")
    } else if query.is_search() {
        let found = sessions.search(query.prefix(), PAGE_SIZE).await?;
        (found, "with this short id")
    } else {
        let page = sessions.page(query.offset(), PAGE_SIZE).await?;
        (page, "latest expiry first")
    };
    let Some(found) = found else {
        return Ok(Page::new("Sessions", html(|| no_list(&console.store))));
    };
    let alive = sessions.count().await?.unwrap_or(0);
    let context = Context::new(console, mount, own);
    let body = html(|| {
        view! {
            {search(query, mount)}
            {table(&found, caption, &context)}
            {may_have_more(query, found.len()).then(|| view! { <p class="soft">{format!("At most {PAGE_SIZE} results are shown. A longer short id narrows the search.")}</p> })}
            {pages(query, alive, mount)}
            {revoke_others(mount)}
        }
    });
    Ok(Page::new("Sessions", body))
}

impl<'a, S: SessionState> Context<'a, S> {
    fn new(console: &'a Console<S>, mount: &'a Mount, own: &'a str) -> Self {
        Self {
            console,
            mount,
            own,
            now: OffsetDateTime::now_utc().unix_timestamp(),
        }
    }
}

fn no_list(store: &str) -> impl IntoView + use<> {
    let store = store.to_owned();
    view! {
        <p>
            {store} " has no list of its sessions, so they can’t be listed, searched or revoked here. \
            Redis, PostgreSQL and SQLite have one."
        </p>
    }
}

/// Whether a search may have more results than are shown.
fn may_have_more(query: &ListQuery, found: usize) -> bool {
    query.is_search() && found == PAGE_SIZE as usize
}

fn search(query: &ListQuery, mount: &Mount) -> impl IntoView + use<> {
    view! {
        <form class="search" role="search" method="get" action=mount.path("/sessions")>
            <div>
                <label for="short_id">"Short id or its prefix"</label>
                <input id="short_id" name="short_id" value=query.prefix().to_owned() autocomplete="off" spellcheck="false"/>
            </div>
            <div>
                <label for="user">"Exact user name"</label>
                <input id="user" name="user" value=query.user().to_owned() autocomplete="off" spellcheck="false"/>
            </div>
            <button>"Search"</button>
        </form>
    }
}

fn table<S: SessionState>(
    found: &[Listed<S>],
    caption: &'static str,
    context: &Context<'_, S>,
) -> impl IntoView + use<S> {
    if found.is_empty() {
        return view! { <p>"No sessions."</p> }.into_any();
    }
    let rows: Vec<_> = found.iter().map(|session| row(session, context)).collect();
    let columns = context.console.columns.iter();
    let heads = columns.map(|column| view! { <th scope="col" class="amount">{column.name}</th> });
    view! {
        <div class="scroll">
            <table>
                <caption class="visually-hidden">"Sessions, " {caption}</caption>
                <thead>
                    <tr>
                        <th scope="col">"Short id"</th>
                        <th scope="col">"Created"</th>
                        <th scope="col">"Last write"</th>
                        {heads.collect::<Vec<_>>()}
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

fn row<S: SessionState>(session: &Listed<S>, context: &Context<'_, S>) -> impl IntoView + use<S> {
    let Context {
        console,
        mount,
        own,
        now,
    } = context;
    let stored = session.envelope.as_ref();
    let unreadable = || "unreadable".to_owned();
    let ago = |time: i64| format!("{} ago", format::duration(now - time));
    let size = stored.map_or_else(unreadable, |stored| format::size(stored.size()));
    let cells = console.columns.iter().map(|column| {
        let value = stored.map_or_else(unreadable, |stored| (column.value)(&stored.state));
        view! { <td class="amount">{value}</td> }
    });
    view! {
        <tr>
            <th scope="row"><a href=session_path(&session.short_id, mount)><code>{session.short_id.clone()}</code></a></th>
            <td>{stored.map(|stored| time(stored.created_at, ago(stored.created_at)))}</td>
            <td>{stored.map(|stored| time(stored.written_at(), ago(stored.written_at())))}</td>
            {cells.collect::<Vec<_>>()}
            <td class="amount">{size}</td>
            <td>{time(session.expires_at, format!("in {}", format::duration(session.expires_at - now)))}</td>
            <td>{revoke_or_own(&session.short_id, own, mount)}</td>
        </tr>
    }
}

fn time(seconds: i64, text: String) -> impl IntoView {
    view! { <time datetime=format::iso_8601(seconds) title=format::date_time(seconds)>{text}</time> }
}

fn revoke_or_own(short_id: &str, own: &str, mount: &Mount) -> impl IntoView + use<> {
    if short_id == own {
        return view! { <span class="soft">"yours"</span> }.into_any();
    }
    let name = format!("Revoke {short_id}");
    view! {
        <form method="post" action=format!("{}/revoke", session_path(short_id, mount))>
            <button aria-label=name>"Revoke"</button>
        </form>
    }
    .into_any()
}

/// The path of a session's page.
fn session_path(short_id: &str, mount: &Mount) -> String {
    mount.path(&format!("/sessions/{short_id}"))
}

fn pages(query: &ListQuery, alive: u64, mount: &Mount) -> impl IntoView + use<> {
    let last = alive.div_ceil(PAGE_SIZE.into()).max(1);
    let number = query.page();
    let to = |page: u64| mount.path(&format!("/sessions?page={page}"));
    let [page, of] = [number, last].map(format::number);
    let position = format!("Page {page} of {of}, {}", format::sessions(alive));
    (!query.is_search()).then(|| {
        view! {
            <nav class="pages" aria-label="Pages of the list">
                {(number > 1).then(|| view! { <a href=to(number - 1) rel="prev">"Previous"</a> })}
                <span>{position}</span>
                {(number < last).then(|| view! { <a href=to(number + 1) rel="next">"Next"</a> })}
            </nav>
        }
    })
}

fn revoke_others(mount: &Mount) -> impl IntoView + use<> {
    view! {
        <details class="danger">
            <summary>"Revoke all sessions but mine"</summary>
            <p>"All of them end immediately, and their open pages say so. This can’t be undone."</p>
            <form method="post" action=mount.path("/revoke-others")>
                <button class="trouble">"Revoke them all"</button>
            </form>
        </details>
    }
}

/// Renders the page of one session. Its values are masked unless `revealed`.
pub fn one<S: SessionState>(
    console: &Console<S>,
    mount: &Mount,
    session: &Listed<S>,
    own: &str,
    revealed: bool,
) -> Page {
    let context = Context::new(console, mount, own);
    let body = html(|| {
        view! {
            {facts(session, &context)}
            {contents(session, revealed)}
            <div class="actions">
                {(!revealed && session.envelope.is_some()).then(|| reveal(&session.short_id, mount))}
                {revoke_or_own(&session.short_id, own, mount)}
            </div>
            <p><a href=mount.path("/sessions")>"All sessions"</a></p>
        }
    });
    Page::new("Session", body)
}

fn facts<S: SessionState>(session: &Listed<S>, context: &Context<'_, S>) -> impl IntoView + use<S> {
    let now = context.now;
    let fact = |name: &'static str, value: String| view! { <dt>{name}</dt><dd>{value}</dd> };
    let at = |time: i64| {
        format!(
            "{}, {} ago",
            format::date_time(time),
            format::duration(now - time)
        )
    };
    let stored_facts = session.envelope.as_ref().map(|stored| {
        let yes_or_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let columns = context.console.columns.iter();
        let columns = columns.map(|column| fact(column.name, (column.value)(&stored.state)));
        view! {
            {fact("Created", at(stored.created_at))}
            {fact("Last write", at(stored.written_at()))}
            {columns.collect::<Vec<_>>()}
            {fact("Size", format::size(stored.size()))}
            {fact("Cookie confirmed", yes_or_no(stored.confirmed))}
            {fact("Signed in", signed_in(stored))}
        }
    });
    let expires = format!(
        "{}, in {}",
        format::date_time(session.expires_at),
        format::duration(session.expires_at - now)
    );
    view! {
        <dl class="facts">
            {fact("Short id", session.short_id.clone())}
            {stored_facts}
            {fact("Expires", expires)}
        </dl>
    }
}

/// The users that the session is signed in as, with their realms.
fn signed_in<S: SessionState>(stored: &Envelope<S>) -> String {
    let name = |(realm, user): (&str, &SignedInUser)| match realm {
        REALM => "to this console".to_owned(),
        realm => format!("{} ({realm})", user.user()),
    };
    let names: Vec<String> = stored.sign_ins().map(name).collect();
    if names.is_empty() {
        "no".to_owned()
    } else {
        names.join(", ")
    }
}

fn contents<S: SessionState>(session: &Listed<S>, revealed: bool) -> impl IntoView + use<S> {
    let Some(stored) = &session.envelope else {
        return view! { <p>"The contents can’t be read."</p> }.into_any();
    };
    let fields = stored.fields();
    let field = |(name, value): (String, Value)| {
        let kind = kind(&value);
        let shown = if revealed {
            display(&value)
        } else {
            "••••••".to_owned()
        };
        view! { <tr><th scope="row">{name}</th><td>{kind}</td><td class="value">{shown}</td></tr> }
    };
    view! {
        <div class="scroll">
            <table>
                <caption>"Contents"</caption>
                <thead><tr><th scope="col">"Field"</th><th scope="col">"Type"</th><th scope="col">"Value"</th></tr></thead>
                <tbody>{fields.into_iter().map(field).collect::<Vec<_>>()}</tbody>
            </table>
        </div>
    }
    .into_any()
}

/// Describes the type of a value without revealing the value.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "boolean".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::String(text) => format!("text, {} characters", text.chars().count()),
        Value::Array(values) => format!("list of {}", values.len()),
        Value::Object(fields) => format!("{} fields", fields.len()),
    }
}

fn display(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn reveal(short_id: &str, mount: &Mount) -> impl IntoView + use<> {
    view! {
        <form method="post" action=format!("{}/reveal", session_path(short_id, mount))>
            <button>"Show the values"</button>
        </form>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_page_number_selects_the_first_page() {
        let page = |page: &str| ListQuery {
            page: page.to_owned(),
            ..ListQuery::default()
        };
        assert_eq!((page("").page(), page("3").page()), (1, 3));
        for invalid in ["-1", "many", "0", "99999999999999999999"] {
            assert_eq!(page(invalid).page(), 1, "{invalid}");
        }
        assert_eq!(page(&u64::MAX.to_string()).offset(), MAX_OFFSET);
    }

    #[test]
    fn the_type_of_a_value_does_not_reveal_it() {
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
                "null",
                "boolean",
                "0 fields"
            ]
        );
    }
}
