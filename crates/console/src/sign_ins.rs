//! The page that lists where the operator is signed in, with buttons to sign those browsers out.

use leptos::prelude::*;
use tally_session::auth::UserSession;
use time::OffsetDateTime;

use crate::{
    format,
    layout::{Page, html},
    mount::Mount,
};

/// The title of the page, which the navigation also uses.
pub const TITLE: &str = "Your sign-ins";

/// Renders the page.
pub fn page(sessions: &[UserSession], mount: &Mount) -> Page {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let has_others = sessions.iter().any(|session| !session.is_current);
    Page::new(
        TITLE,
        html(|| {
            let rows: Vec<_> = sessions
                .iter()
                .map(|session| row(session, now, mount))
                .collect();
            view! {
                <p>"The operator is signed in to this console in these browsers. If you don’t recognise one of them, sign it out and change the password."</p>
                <div class="scroll">
                    <table>
                        <caption class="visually-hidden">"Your sign-ins, most recently used first"</caption>
                        <thead>
                            <tr>
                                <th scope="col">"Browser"</th>
                                <th scope="col">"Address"</th>
                                <th scope="col">"Signed in"</th>
                                <th scope="col">"Last used"</th>
                                <th scope="col">"Session"</th>
                                <th scope="col"><span class="visually-hidden">"Sign out"</span></th>
                            </tr>
                        </thead>
                        <tbody>{rows}</tbody>
                    </table>
                </div>
                {has_others.then(|| end_others(mount))}
            }
        }),
    )
}

/// Renders the page for a store that can't list sign-ins.
pub fn without_list(mount: &Mount) -> Page {
    Page::new(
        TITLE,
        html(|| {
            view! {
                <p>"This store can’t list where you are signed in. Redis, PostgreSQL and SQLite can."</p>
                {end_others(mount)}
            }
        }),
    )
}

fn row(session: &UserSession, now: i64, mount: &Mount) -> impl IntoView + use<> {
    let ago = |time: i64| {
        view! {
            <time datetime=format::iso_8601(time) title=format::date_time(time)>
                {format!("{} ago", format::duration(now - time))}
            </time>
        }
    };
    let short_id = session.short_id.clone();
    let details = mount.path(&format!("/sessions/{short_id}"));
    let browser = session.user_agent.as_deref().map_or("unknown", browser);
    let address = session.address.map(|address| address.to_string());
    let end = if session.is_current {
        view! { <span class="soft">"this browser"</span> }.into_any()
    } else {
        let action = mount.path(&format!("/sign-ins/{short_id}/end"));
        view! {
            <form method="post" action=action>
                <button aria-label=format!("Sign out {short_id}")>"Sign out"</button>
            </form>
        }
        .into_any()
    };
    view! {
        <tr>
            <th scope="row" title=session.user_agent.clone()>{browser.to_owned()}</th>
            <td>{address.unwrap_or_else(|| "unknown".to_owned())}</td>
            <td>{ago(session.signed_in_at)}</td>
            <td>{ago(session.last_used_at)}</td>
            <td><a href=details><code>{short_id}</code></a></td>
            <td>{end}</td>
        </tr>
    }
}

fn end_others(mount: &Mount) -> impl IntoView + use<> {
    view! {
        <form method="post" class="actions" action=mount.path("/sign-ins/end-others")>
            <button class="trouble">"Sign out everywhere else"</button>
        </form>
    }
}

/// The name of a browser, from its user agent.
fn browser(user_agent: &str) -> &str {
    // A user agent names several browsers. The order of this list decides.
    let names = [
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ];
    let found = names
        .into_iter()
        .find(|(part, _)| user_agent.contains(part));
    found.map_or(user_agent, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_recognised_by_its_user_agent() {
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/140.0.0.0 Safari/537.36";
        assert_eq!(browser(chrome), "Chrome");
        assert_eq!(browser(&format!("{chrome} Edg/140.0")), "Edge");
        assert_eq!(browser("curl/8.5.0"), "curl/8.5.0");
    }
}
