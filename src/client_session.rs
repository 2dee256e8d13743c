//! What an open page knows of the visitor's session. The server lays it into the document, returns it from each server
//! function, and sends it with each change.

use serde::{Deserialize, Serialize};

use crate::visitor::VisitorView;

/// One session at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientSession {
    /// What pages show of the visitor.
    pub visitor: VisitorView,
    /// Grows with each write, so that of two moments the later one is known.
    pub revision: u64,
    /// The server's clock, in seconds since 1970: a page counts from here, because its own clock may be wrong.
    pub now: i64,
    /// When the session was made, in seconds since 1970.
    pub created_at: i64,
    /// When it ends if nothing writes it, in seconds since 1970.
    pub expires_at: i64,
    /// How much is kept, in bytes.
    pub bytes: u64,
}

#[cfg(feature = "ssr")]
impl ClientSession {
    /// The session as its request last saw it; `None`: there is none.
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

/// What the server tells an open page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionEvent {
    /// The session is now like this.
    State(Box<ClientSession>),
    /// There is no session any more, or there never was one.
    Ended,
    /// Too many pages subscribe to this session. The server sends nothing more to this page.
    Replaced,
    /// The connection is alive.
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
    fn what_is_sent_is_what_arrives() {
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
