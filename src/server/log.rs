//! The log: lines to standard error, for people or for programs. No line holds a session's id or a
//! value of it.

use std::io::{self, IsTerminal};

use super::settings::{LogFormat, Settings};
use crate::session::SessionError;

/// Begins to log, as the settings say.
pub fn start(settings: &Settings) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(&settings.log);
    match settings.log_format {
        LogFormat::Pretty => subscriber.init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}

/// A request's session could not be read or changed. A flood must not flood the log, too.
pub fn session_failed(error: &SessionError, what: &str) {
    if matches!(error, SessionError::Flooded { .. }) {
        tracing::debug!(%error, "{what}");
    } else {
        tracing::error!(%error, "{what}");
    }
}
