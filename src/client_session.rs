//! What an open page knows of the visitor's session: the server lays it into the document and sends
//! it again with each change, in the form that forms have (`visits=3&theme=dark`), which every
//! browser can read by itself. A JSON parser would weigh 24 KB more there.

use crate::visitor::Shown;

/// The answer's header with the number of the session's last write, so that a page knows which of
/// two answers is the newer.
pub const REVISION: &str = "session-revision";

/// Takes the fields of something that is sent, by name and value.
pub type Write<'a> = &'a mut dyn FnMut(&str, &str);

/// Finds a field of something that was sent, by its name.
pub type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One session at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub visitor: Shown,
    /// Grows with each write, so that of two snapshots the newer one is known.
    pub revision: u64,
    /// The server's clock, in seconds since 1970: a page counts from here, for its own clock may be wrong.
    pub now: i64,
    /// When the session was made, in seconds since 1970.
    pub began: i64,
    /// When it ends if nobody writes it, in seconds since 1970; 0: not known yet.
    pub ends: i64,
    /// How much is kept, in bytes.
    pub bytes: u64,
}

impl Snapshot {
    pub fn write(&self, write: Write) {
        self.visitor.write(write);
        write("revision", &self.revision.to_string());
        write("now", &self.now.to_string());
        write("began", &self.began.to_string());
        write("ends", &self.ends.to_string());
        write("bytes", &self.bytes.to_string());
    }

    /// `None`: there is no session in it.
    pub fn read(read: Read) -> Option<Self> {
        Some(Self {
            visitor: Shown::read(read)?,
            revision: read("revision")?.parse().ok()?,
            now: read("now")?.parse().ok()?,
            began: read("began")?.parse().ok()?,
            ends: read("ends")?.parse().ok()?,
            bytes: read("bytes")?.parse().ok()?,
        })
    }
}

#[cfg(feature = "ssr")]
impl From<&tally_session::Snapshot<crate::visitor::Visitor>> for Snapshot {
    fn from(snapshot: &tally_session::Snapshot<crate::visitor::Visitor>) -> Self {
        let info = &snapshot.info;
        Self {
            visitor: snapshot.state.shown(),
            revision: info.revision,
            now: time::OffsetDateTime::now_utc().unix_timestamp(),
            began: info.created_at,
            ends: info.expires_at,
            bytes: info.bytes,
        }
    }
}

/// What the server tells an open page.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// The session is now like this.
    State(Box<Snapshot>),
    /// There is no session any more, or never was one.
    Ended,
    /// Too many pages of this session listen; this one is told nothing any more.
    Replaced,
    /// The connection is alive.
    Beat,
}

impl News {
    pub fn write(&self, write: Write) {
        match self {
            Self::State(snapshot) => snapshot.write(write),
            Self::Ended => write("news", "ended"),
            Self::Replaced => write("news", "replaced"),
            Self::Beat => write("news", "beat"),
        }
    }

    /// `None`: another release's, which this one does not understand.
    pub fn read(read: Read) -> Option<Self> {
        match read("news").as_deref() {
            Some("ended") => Some(Self::Ended),
            Some("replaced") => Some(Self::Replaced),
            Some("beat") => Some(Self::Beat),
            _ => Snapshot::read(read).map(|snapshot| Self::State(Box::new(snapshot))),
        }
    }
}

#[cfg(feature = "ssr")]
impl From<&tally_session::SessionEvent<crate::visitor::Visitor>> for News {
    fn from(event: &tally_session::SessionEvent<crate::visitor::Visitor>) -> Self {
        use tally_session::SessionEvent as Event;
        match event {
            Event::State(snapshot) => Self::State(Box::new(Snapshot::from(&**snapshot))),
            Event::Ended => Self::Ended,
            Event::Replaced => Self::Replaced,
            Event::Heartbeat => Self::Beat,
        }
    }
}
