//! One line in the log for each thing that an operator does or tries, whatever level the log has:
//! what, by whom, from where, to which session. Sessions are named by their labels.

use std::net::IpAddr;

use crate::{server::request_id::RequestId, session::SessionError};

/// The lines' target, by which a log can be searched and sorted.
pub const TARGET: &str = "audit";

/// Who does something.
#[derive(Clone, Debug)]
pub struct Actor {
    pub address: IpAddr,
    /// The request's, as in the line of its answer.
    pub request: RequestId,
    /// The label of the operator's own session; `None`: there is none yet.
    pub label: Option<String>,
}

impl Actor {
    /// The label of the operator's own session, which no session has where there is none.
    pub fn own(&self) -> &str {
        self.label.as_deref().unwrap_or_default()
    }

    /// Writes the line. `session`: the label of the session it is about, where it is about one.
    pub fn did(&self, action: Action, session: Option<&str>) {
        self.write(action, session, None, None);
    }

    /// The same of something that concerned so many sessions.
    pub fn did_to_many(&self, action: Action, sessions: u64) {
        self.write(action, None, Some(sessions), None);
    }

    /// Writes down what became of something: that it was done, or why not.
    ///
    /// # Errors
    /// The same.
    pub fn result<T>(
        &self,
        action: Action,
        session: Option<&str>,
        result: Result<T, SessionError>,
    ) -> Result<T, SessionError> {
        self.write(action, session, None, result.as_ref().err());
        result
    }

    fn write(
        &self,
        action: Action,
        session: Option<&str>,
        sessions: Option<u64>,
        error: Option<&SessionError>,
    ) {
        let Self {
            address,
            request,
            label,
        } = self;
        let (action, operator) = (action.name(), label.as_deref());
        match error {
            None => {
                tracing::info!(target: TARGET, action, %address, id = %request, operator, session, sessions, "audit");
            }
            Some(error) => {
                tracing::warn!(target: TARGET, action, %address, id = %request, operator, session, %error, "audit: failed");
            }
        }
    }
}

/// What an operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    SignedIn,
    WrongPassword,
    TooManyAttempts,
    SignInEnded,
    SignedOut,
    SignedOutEverywhere,
    Listed,
    Searched,
    Viewed,
    Revealed,
    Revoked,
    /// It is about to be done, which may take a while.
    RevokesOthers,
    RevokedOthers,
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::SignedIn => "signed in",
            Self::WrongPassword => "wrong password",
            Self::TooManyAttempts => "too many attempts",
            Self::SignInEnded => "sign-in ended",
            Self::SignedOut => "signed out",
            Self::SignedOutEverywhere => "signed out everywhere",
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
