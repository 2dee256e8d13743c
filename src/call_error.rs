//! The error that a server function returns to the browser.

use leptos::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

#[cfg(feature = "ssr")]
use crate::visitor::TooLong;
use crate::{
    browser::{self, json::JsonEncoding},
    visitor::LONGEST_DRAFT,
};

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum CallError {
    #[error("Your session can't be reached right now; please try again.")]
    Unavailable,
    #[error(
        "Too many new sessions come from your network right now; please try again in a moment."
    )]
    RateLimited,
    #[error("The request made no sense to the server.")]
    Malformed,
    #[error("The connection failed before the answer came.")]
    Connection,
    #[error("You are offline.")]
    Offline,
    #[error("It is too long: {LONGEST_DRAFT} characters are the most.")]
    TooLong,
}

impl FromServerFnError for CallError {
    type Encoder = JsonEncoding;

    fn from_server_fn_error(error: ServerFnErrorErr) -> Self {
        match error {
            ServerFnErrorErr::Args(_) | ServerFnErrorErr::MissingArg(_) => Self::malformed(),
            ServerFnErrorErr::Request(_) if !browser::is_online() => Self::Offline,
            // A layer outside of the function has responded, in words for people.
            ServerFnErrorErr::Deserialization(_) if cfg!(not(feature = "ssr")) => Self::Unavailable,
            ServerFnErrorErr::Deserialization(_) => Self::malformed(),
            _ => Self::Connection,
        }
    }
}

impl CallError {
    /// The arguments make no sense: the caller's mistake, which server_fn takes for the server's.
    fn malformed() -> Self {
        #[cfg(feature = "ssr")]
        set_status(axum::http::StatusCode::BAD_REQUEST);
        Self::Malformed
    }
}

#[cfg(feature = "ssr")]
fn set_status(status: axum::http::StatusCode) {
    if let Some(options) = use_context::<leptos_axum::ResponseOptions>() {
        options.set_status(status);
    }
}

#[cfg(feature = "ssr")]
impl From<TooLong> for CallError {
    fn from(_: TooLong) -> Self {
        set_status(axum::http::StatusCode::UNPROCESSABLE_ENTITY);
        Self::TooLong
    }
}

#[cfg(feature = "ssr")]
impl From<tally_session::SessionError> for CallError {
    /// The log has the cause; the visitor learns what it means, and that it is worth another try.
    fn from(error: tally_session::SessionError) -> Self {
        set_status(error.status());
        if let Some(options) = use_context::<leptos_axum::ResponseOptions>()
            && let Some(seconds) = error.retry_after()
        {
            crate::server::headers::retry_after(&options, seconds);
        }
        Self::of(&error)
    }
}

#[cfg(feature = "ssr")]
impl CallError {
    /// What a visitor learns of a session that could not be reached.
    pub fn of(error: &tally_session::SessionError) -> Self {
        match error {
            tally_session::SessionError::RateLimited { .. } => Self::RateLimited,
            _ => Self::Unavailable,
        }
    }
}
