//! The error that a server function returns to the browser.

use leptos::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

#[cfg(feature = "ssr")]
use crate::visitor::TooLong;
use crate::{
    browser::{self, json::JsonEncoding},
    visitor::MAX_DRAFT_LENGTH,
};

/// The reason why a call failed. The message is shown to the visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum CallError {
    #[error("Your session can't be reached right now. Please try again.")]
    Unavailable,
    #[error("Too many new sessions from your network. Please try again in a moment.")]
    RateLimited,
    #[error("The server could not understand the request.")]
    Malformed,
    #[error("The connection failed before the response arrived.")]
    Connection,
    #[error("You are offline.")]
    Offline,
    #[error("It is too long. The maximum is {MAX_DRAFT_LENGTH} characters.")]
    TooLong,
}

impl FromServerFnError for CallError {
    type Encoder = JsonEncoding;

    fn from_server_fn_error(error: ServerFnErrorErr) -> Self {
        match error {
            ServerFnErrorErr::Args(_) | ServerFnErrorErr::MissingArg(_) => Self::malformed(),
            ServerFnErrorErr::Request(_) if !browser::is_online() => Self::Offline,
            // In the browser: a layer around the server function has responded with plain text instead of JSON.
            ServerFnErrorErr::Deserialization(_) if cfg!(not(feature = "ssr")) => Self::Unavailable,
            ServerFnErrorErr::Deserialization(_) => Self::malformed(),
            _ => Self::Connection,
        }
    }
}

impl CallError {
    /// The error for arguments that can't be decoded. Sets status 400, where server_fn would respond with 500.
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
    /// Sets the status and `Retry-After` of the error. The visitor gets a message without the cause, which is logged.
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
    /// The error that a visitor sees if the session can't be loaded or saved.
    pub fn of(error: &tally_session::SessionError) -> Self {
        match error {
            tally_session::SessionError::RateLimited { .. } => Self::RateLimited,
            _ => Self::Unavailable,
        }
    }
}
