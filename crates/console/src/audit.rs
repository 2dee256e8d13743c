//! The audit log: one line for each action and each failed attempt of an operator, whatever the log level.
//!
//! A line has the action, the operator's session and address, and the session that the action is about. Sessions are
//! identified by their short ids.

use std::{fmt, net::IpAddr};

use tally_session::SessionError;
use tracing::field::display;

/// The `tracing` target of the audit log, for filtering.
pub const TARGET: &str = "audit";

/// The client that performs an action.
#[derive(Clone, Debug)]
pub struct Actor {
    pub address: IpAddr,
    /// The request id, if an outer layer has set one.
    pub request: Option<String>,
    /// The short id of the operator's own session, if there is one yet.
    pub short_id: Option<String>,
}

impl Actor {
    /// The short id of the operator's own session, or an empty string, which equals no session's short id.
    pub fn own(&self) -> &str {
        self.short_id.as_deref().unwrap_or_default()
    }

    /// Logs a completed action. `session` is the short id of the session that the action is about.
    pub fn log(&self, action: Action, session: Option<&str>) {
        self.begin(action, session).write(None, None);
    }

    /// Starts the log entry of an action whose outcome is still open.
    pub fn begin(&self, action: Action, session: Option<&str>) -> Entry {
        Entry {
            actor: self.clone(),
            action,
            session: session.map(str::to_owned),
            written: false,
        }
    }
}

/// The log entry of an action in progress.
///
/// An entry that is dropped unfinished, because the server stops, is logged as interrupted.
#[derive(Debug)]
#[must_use = "the entry is logged as interrupted unless it is finished"]
pub struct Entry {
    pub actor: Actor,
    action: Action,
    session: Option<String>,
    written: bool,
}

impl Entry {
    /// Logs the outcome of the action.
    ///
    /// # Errors
    /// Returns the error in `result`.
    pub fn finish<T>(mut self, result: Result<T, SessionError>) -> Result<T, SessionError> {
        let error = result.as_ref().err();
        self.write(None, error.map(|error| error as &dyn fmt::Display));
        result
    }

    /// Logs the outcome of an action on several sessions, with their number.
    ///
    /// `Ok(None)` means that the operator's own session has ended.
    ///
    /// # Errors
    /// Returns the error in `result`.
    pub fn finish_count(
        self,
        result: Result<Option<u64>, SessionError>,
    ) -> Result<Option<u64>, SessionError> {
        let sessions = result.as_ref().ok().copied().flatten();
        self.finish_unless_none(result, "the operator's own session has ended", sessions)
    }

    /// Logs the outcome of an action on one session. `Ok(None)` means that there is no such session.
    ///
    /// # Errors
    /// Returns the error in `result`.
    pub fn finish_found<T>(
        self,
        result: Result<Option<T>, SessionError>,
    ) -> Result<Option<T>, SessionError> {
        self.finish_unless_none(result, "there is no such session", None)
    }

    /// Logs the outcome, with `missing` as the error if the result is `Ok(None)`.
    fn finish_unless_none<T>(
        mut self,
        result: Result<Option<T>, SessionError>,
        missing: &str,
        sessions: Option<u64>,
    ) -> Result<Option<T>, SessionError> {
        match result {
            Ok(Some(_)) => self.write(sessions, None),
            Ok(None) => self.write(None, Some(&missing)),
            Err(_) => return self.finish(result),
        }
        result
    }

    fn write(&mut self, sessions: Option<u64>, error: Option<&dyn fmt::Display>) {
        self.written = true;
        let Actor {
            address,
            request,
            short_id,
        } = &self.actor;
        let (action, operator) = (self.action.name(), short_id.as_deref());
        let id = request.as_deref().map(display);
        let session = self.session.as_deref();
        match error {
            None => {
                tracing::info!(target: TARGET, action, %address, id, operator, session, sessions, "audit");
            }
            Some(error) => {
                tracing::warn!(target: TARGET, action, %address, id, operator, session, %error, "audit: failed");
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.written {
            self.write(None, Some(&"interrupted"));
        }
    }
}

/// An action in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    SignedIn,
    WrongPassword,
    TooManyAttempts,
    LinkUsed,
    SignInEnded,
    SignedOut,
    SignedOutEverywhere,
    EndedSignIn,
    EndedOtherSignIns,
    Listed,
    Searched,
    Viewed,
    Revealed,
    Revoked,
    /// Logged before the revocation of all other sessions, because that may take a while.
    RevokesOthers,
    RevokedOthers,
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::SignedIn => "signed in",
            Self::WrongPassword => "wrong password",
            Self::TooManyAttempts => "too many attempts",
            Self::LinkUsed => "sign-in link used",
            Self::SignInEnded => "sign-in ended",
            Self::SignedOut => "signed out",
            Self::SignedOutEverywhere => "signed out everywhere",
            Self::EndedSignIn => "signed out elsewhere",
            Self::EndedOtherSignIns => "signed out everywhere else",
            Self::Listed => "sessions listed",
            Self::Searched => "sessions searched",
            Self::Viewed => "session viewed",
            Self::Revealed => "values revealed",
            Self::Revoked => "session revoked",
            Self::RevokesOthers => "all other sessions to be revoked",
            Self::RevokedOthers => "all other sessions revoked",
        }
    }
}
