//! The sign-in page: all that anybody sees of the console who has not signed in, at every address
//! of it.

use axum::http::StatusCode;
use leptos::prelude::*;

use crate::{
    layout::{Page, html},
    mount::Mount,
};
use tally_session::auth::Ended;

/// Why the page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody has signed in.
    Asked,
    /// The session that the client brought has ended.
    SessionEnded,
    /// The sign-in holds no longer.
    Ended(Ended),
    WrongPassword,
    /// Too often tried; again in so many seconds.
    TooManyAttempts(u64),
}

/// The page.
pub fn page(reason: Reason, mount: &Mount) -> Page {
    let (status, retry_after) = match reason {
        Reason::Asked | Reason::SessionEnded | Reason::Ended(_) => (StatusCode::OK, None),
        Reason::WrongPassword => (StatusCode::FORBIDDEN, None),
        Reason::TooManyAttempts(seconds) => (StatusCode::TOO_MANY_REQUESTS, Some(seconds)),
    };
    Page {
        status,
        retry_after,
        signed_in: false,
        ..Page::new("Sign in", html(|| form(words(reason), mount)))
    }
}

fn words(reason: Reason) -> Option<String> {
    Some(match reason {
        Reason::Asked => return None,
        Reason::SessionEnded => {
            "Your session has ended: it was not used for too long, or somebody signed out everywhere."
                .to_owned()
        }
        Reason::Ended(Ended::Idle) => {
            "Your sign-in has ended, because it was not used for a while.".to_owned()
        }
        Reason::Ended(Ended::Absolute) => {
            "Your sign-in has ended, because it was made a long time ago.".to_owned()
        }
        Reason::Ended(Ended::Elsewhere) => {
            "Your sign-in has ended: somebody signed out everywhere, or the password has changed."
                .to_owned()
        }
        Reason::WrongPassword => "This is not the password.".to_owned(),
        Reason::TooManyAttempts(seconds) => {
            let again = if seconds == 1 {
                "a second"
            } else {
                &format!("{seconds} seconds")
            };
            format!("Too many passwords were tried. Please try again in {again}.")
        }
    })
}

fn form(words: Option<String>, mount: &Mount) -> impl IntoView + use<> {
    let root = mount.root().to_owned();
    view! {
        {words.map(|words| view! { <p class="message trouble" role="alert">{words}</p> })}
        <form class="narrow" method="post" action=root>
            // Password managers want to know whose password it is.
            <input class="visually-hidden" type="text" name="account" value="operator" autocomplete="username" aria-label="Account" tabindex="-1" readonly/>
            <p>
                <label for="password">"Password"</label>
                <input id="password" type="password" name="password" autocomplete="current-password" required autofocus/>
            </p>
            <button class="primary">"Sign in"</button>
        </form>
    }
}
