//! The visitor's session as open pages know it.
//!
//! The server embeds it in the document, returns it from each server function, and sends it to open pages after each
//! change.

use serde::{Deserialize, Serialize};

use crate::visitor::VisitorView;

/// A snapshot of the session for the browser.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientSession {
    /// The part of the visitor's state that pages show.
    pub visitor: VisitorView,
    /// Grows with each write. Of two snapshots, the one with the higher revision is newer.
    pub revision: u64,
    /// The server's time of this snapshot, in seconds since 1970. The browser's own clock may be wrong.
    pub now: i64,
    /// When the session was created, in seconds since 1970.
    pub created_at: i64,
    /// When the session expires unless it is written again, in seconds since 1970.
    pub expires_at: i64,
    /// The size of the record, in bytes.
    pub bytes: u64,
}

#[cfg(feature = "ssr")]
impl ClientSession {
    /// The session as the request last saw it. Returns `None` if there is no session.
    pub fn of(session: &crate::visitor::Session) -> Option<Self> {
        session.snapshot().as_ref().map(Self::from)
    }
}

#[cfg(feature = "ssr")]
impl From<&tally_session::Snapshot<crate::visitor::Visitor>> for ClientSession {
    fn from(snapshot: &tally_session::Snapshot<crate::visitor::Visitor>) -> Self {
        let info = &snapshot.info;
        Self {
            visitor: snapshot.state.view(),
            revision: info.revision,
            now: time::OffsetDateTime::now_utc().unix_timestamp(),
            created_at: info.created_at,
            expires_at: info.expires_at,
            bytes: info.bytes,
        }
    }
}

/// An event on the stream from the server to an open page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionEvent {
    /// The current state of the session.
    State(Box<ClientSession>),
    /// The session has ended, or does not exist.
    Ended,
    /// Too many pages are subscribed to this session, and a newer page has replaced this one. The stream ends.
    Replaced,
    /// Shows that the connection is alive.
    Heartbeat,
}

#[cfg(feature = "ssr")]
impl From<&tally_session::SessionEvent<crate::visitor::Visitor>> for SessionEvent {
    fn from(event: &tally_session::SessionEvent<crate::visitor::Visitor>) -> Self {
        use tally_session::SessionEvent as Event;
        match event {
            Event::State(snapshot) => Self::State(Box::new(ClientSession::from(&**snapshot))),
            Event::Ended => Self::Ended,
            Event::Replaced => Self::Replaced,
            Event::Heartbeat => Self::Heartbeat,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::visitor::Theme;

    #[test]
    fn events_survive_a_round_trip() {
        let session = ClientSession {
            visitor: VisitorView {
                visits: u64::MAX,
                theme: Theme::Dark,
                draft: "a \"b\" & <c>\n".to_owned(),
            },
            revision: u64::MAX,
            now: -1,
            created_at: i64::MIN,
            expires_at: i64::MAX,
            bytes: 7,
        };
        for event in [
            SessionEvent::State(Box::new(session)),
            SessionEvent::Ended,
            SessionEvent::Replaced,
            SessionEvent::Heartbeat,
        ] {
            let text = serde_json::to_string(&event).expect("encodes");
            assert_eq!(
                serde_json::from_str::<SessionEvent>(&text).ok(),
                Some(event)
            );
        }
    }
}
