//! One line in the log for each thing that an operator does or tries, whatever level the log has:
//! what, by whom, from where, to which session. Sessions are named by their short ids.

use std::{fmt, net::IpAddr};

use tally_session::SessionError;
use tracing::field::display;

/// The lines' target, by which a log can be searched and sorted.
pub const TARGET: &str = "audit";

/// Who does something.
#[derive(Clone, Debug)]
pub struct Actor {
    pub address: IpAddr,
    /// The name of the request, where a layer outside has given it one.
    pub request: Option<String>,
    /// The short id of the operator's own session; `None`: there is none yet.
    pub short_id: Option<String>,
}

impl Actor {
    /// The short id of the operator's own session; empty, as no session's is, where there is none.
    pub fn own(&self) -> &str {
        self.short_id.as_deref().unwrap_or_default()
    }

    /// Writes the line of something that is done. `session`: the short id of the session that it is
    /// about, where it is about one.
    pub fn did(&self, action: Action, session: Option<&str>) {
        self.begins(action, session).write(None, None);
    }

    /// The line of something that begins now.
    pub fn begins(&self, action: Action, session: Option<&str>) -> Line {
        Line {
            actor: self.clone(),
            action,
            session: session.map(str::to_owned),
            written: false,
        }
    }
}

/// The line of something whose end is not known yet. Where there is none, for the server stops before
/// it, the line says that.
#[derive(Debug)]
#[must_use = "it has to be told how it ends"]
pub struct Line {
    pub actor: Actor,
    action: Action,
    session: Option<String>,
    written: bool,
}

impl Line {
    /// Writes what became of it: that it was done, or why not.
    ///
    /// # Errors
    /// The same.
    pub fn ends<T>(mut self, result: Result<T, SessionError>) -> Result<T, SessionError> {
        let error = result.as_ref().err();
        self.write(None, error.map(|error| error as &dyn fmt::Display));
        result
    }

    /// The same of something that concerned so many sessions; `None`: who did it has no session.
    ///
    /// # Errors
    /// The same.
    pub fn ends_for(
        self,
        result: Result<Option<u64>, SessionError>,
    ) -> Result<Option<u64>, SessionError> {
        let sessions = result.as_ref().ok().copied().flatten();
        self.ends_unless(result, "the operator's own session has ended", sessions)
    }

    /// The same of something that needs a session, of which there may be none.
    ///
    /// # Errors
    /// The same.
    pub fn ends_if_there<T>(
        self,
        result: Result<Option<T>, SessionError>,
    ) -> Result<Option<T>, SessionError> {
        self.ends_unless(result, "there is no such session", None)
    }

    /// `missing`: why there was nothing to do it with, where the result is none.
    fn ends_unless<T>(
        mut self,
        result: Result<Option<T>, SessionError>,
        missing: &str,
        sessions: Option<u64>,
    ) -> Result<Option<T>, SessionError> {
        match result {
            Ok(Some(_)) => self.write(sessions, None),
            Ok(None) => self.write(None, Some(&missing)),
            Err(_) => return self.ends(result),
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

impl Drop for Line {
    fn drop(&mut self) {
        if !self.written {
            self.write(None, Some(&"cut off before its end"));
        }
    }
}

/// What an operator can do.
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
