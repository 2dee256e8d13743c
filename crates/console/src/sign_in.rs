//! The sign-in page, which a client that is not signed in gets at every address of the console.

use axum::http::StatusCode;
use leptos::prelude::*;

use crate::{
    layout::{Page, html},
    mount::Mount,
};
use tally_session::auth::Ended;

/// The reason why the page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client is not signed in.
    Asked,
    /// The session of the client has ended.
    SessionEnded,
    /// The sign-in is no longer valid.
    Ended(Ended),
    WrongPassword,
    /// Too many attempts. The next one is allowed after this number of seconds.
    TooManyAttempts(u64),
}

/// Renders the sign-in page.
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
        ..Page::new("Sign in", html(|| form(message(reason), mount)))
    }
}

fn message(reason: Reason) -> Option<String> {
    Some(match reason {
        Reason::Asked => return None,
        Reason::SessionEnded => {
            "Your session has ended: it was unused for too long, or somebody signed out everywhere."
                .to_owned()
        }
        Reason::Ended(Ended::Idle) => {
            "Your sign-in has expired because it was not used for a while.".to_owned()
        }
        Reason::Ended(Ended::Absolute) => {
            "Your sign-in has expired because it reached its time limit.".to_owned()
        }
        Reason::Ended(Ended::Elsewhere) => {
            "Your sign-in has ended: somebody signed out everywhere, or the password has changed."
                .to_owned()
        }
        Reason::WrongPassword => "Wrong password.".to_owned(),
        Reason::TooManyAttempts(seconds) => {
            let delay = if seconds == 1 {
                "a second"
            } else {
                &format!("{seconds} seconds")
            };
            format!("Too many attempts. Please try again in {delay}.")
        }
    })
}

fn form(message: Option<String>, mount: &Mount) -> impl IntoView + use<> {
    let root = mount.root().to_owned();
    view! {
        {message.map(|message| view! { <p class="message trouble" role="alert">{message}</p> })}
        <form class="narrow" method="post" action=root>
            // Password managers need a user name to store the password with.
            <input class="visually-hidden" type="text" name="account" value="operator" autocomplete="username" aria-label="Account" tabindex="-1" readonly/>
            <p>
                <label for="password">"Password"</label>
                <input id="password" type="password" name="password" autocomplete="current-password" required autofocus/>
            </p>
            <button class="primary">"Sign in"</button>
        </form>
    }
}
