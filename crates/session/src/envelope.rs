//! The envelope: a session as it is stored, with the application's state and the core's own data.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, io,
    time::Duration as StdDuration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};
use tower_sessions::session::{Id, Record};

use super::{
    SessionError,
    auth::{SignedInUser, user_key},
    config::Config,
    expiry::{Expiry, Lifetime, lifetime},
    flash::Message,
    revocation::Revocation,
    state::{SessionState, fields},
    store::UserEntry,
};

/// The record's only key. With a single key, a record always encodes to the same bytes, and compare-and-swap compares
/// bytes.
const KEY: &str = "tally";

/// The field of the envelope that holds the state.
const STATE: &str = "state";

/// The most servers whose last writes a session keeps. More servers rarely write one session within the few seconds in
/// which a broken save is retried.
const MAX_WRITERS: usize = 8;

/// A session as it is stored.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "S: SessionState"))]
pub struct Envelope<S> {
    /// Each server's last write, the newest first. A server never has two writes of one session in progress. So after a
    /// broken connection, its own entry shows whether the write succeeded.
    #[serde(rename = "writers")]
    pub(crate) recent_writes: Vec<WriteStamp>,
    /// Increases with each change, so that subscribers know which of two states is newer. It is the time of the last
    /// change in milliseconds since 1970, or one more than the revision before if the clock has not moved on.
    #[serde(default)]
    pub revision: u64,
    /// When the session was created, in seconds since 1970. The absolute age counts from here.
    #[serde(rename = "began")]
    pub created_at: i64,
    /// The client has sent the cookie back at least once.
    pub confirmed: bool,
    /// The session's own expiry, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Expiry>,
    /// The sign-ins, by realm.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sign_ins: BTreeMap<String, SignedInUser>,
    /// The realms that trust this browser, because someone has signed in there with it before or has used a login
    /// token. A trusted browser may try to sign in even while a realm limits the attempts of others.
    #[serde(
        rename = "known_in",
        default,
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub(crate) trusted_by: BTreeSet<String>,
    /// The number of the last revocation of all sessions from which this one is exempt.
    #[serde(rename = "spared_by", default, skip_serializing_if = "Option::is_none")]
    pub(crate) exempt_from_revocation: Option<u64>,
    /// The number of the request that set the test cookie's mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) test_mark: Option<u64>,
    /// Messages for the next page to show once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    pub state: S,
    /// Fields of the state that this release does not know. They are kept as they are, so that two releases can run
    /// side by side.
    #[serde(skip)]
    unknown: Map<String, Value>,
}

/// Does not show the state, which may hold secrets.
impl<S> fmt::Debug for Envelope<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Envelope")
            .field("revision", &self.revision)
            .field("created_at", &self.created_at)
            .finish_non_exhaustive()
    }
}

/// A session at one point in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot<S> {
    pub state: S,
    pub info: Info,
}

/// A session's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Increases with each write. Of two snapshots, the newer one has the higher revision.
    pub revision: u64,
    /// When the session was created, in seconds since 1970.
    pub created_at: i64,
    /// When the session expires unless it is written again, in seconds since 1970.
    pub expires_at: i64,
    /// The size of the stored session, in bytes.
    pub bytes: u64,
}

/// Identifies one write: the server's number, and a random token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub(crate) struct WriteStamp {
    pub server: u64,
    pub token: u64,
}

impl From<(u64, u64)> for WriteStamp {
    fn from((server, token): (u64, u64)) -> Self {
        Self { server, token }
    }
}

impl From<WriteStamp> for (u64, u64) {
    fn from(write: WriteStamp) -> Self {
        (write.server, write.token)
    }
}

impl<S: SessionState> Envelope<S> {
    /// A session that begins now.
    pub fn new(state: S) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            recent_writes: Vec::new(),
            revision: milliseconds(now),
            created_at: now.unix_timestamp(),
            confirmed: false,
            expiry: None,
            sign_ins: BTreeMap::new(),
            trusted_by: BTreeSet::new(),
            exempt_from_revocation: None,
            test_mark: None,
            messages: Vec::new(),
            state,
            unknown: Map::new(),
        }
    }

    /// Decodes a record. `None`: it holds no session of this state.
    pub fn of(record: &Record) -> Option<Self> {
        let value = record.data.get(KEY)?;
        let mut stored = Self::deserialize(value).ok()?;
        if let Value::Object(found) = value.get(STATE)? {
            let known = fields(&stored.state)?;
            let unknown = found.iter().filter(|(name, _)| !known.contains_key(*name));
            stored.unknown = unknown
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
        }
        Some(stored)
    }

    /// Gives a change its revision. One write may contain several changes.
    pub(crate) fn bump_revision(&mut self) {
        let now = milliseconds(OffsetDateTime::now_utc());
        self.revision = now.max(self.revision.saturating_add(1));
    }

    /// Stamps the envelope with the write that is about to be sent.
    pub(crate) fn stamp(&mut self, write: WriteStamp) {
        self.recent_writes
            .retain(|other| other.server != write.server);
        self.recent_writes.insert(0, write);
        self.recent_writes.truncate(MAX_WRITERS);
    }

    /// Whether the session includes this write.
    pub(crate) fn is_stamped(&self, write: WriteStamp) -> bool {
        self.recent_writes.contains(&write)
    }

    /// Whether the session is exempt from a revocation of all sessions.
    pub(crate) fn is_exempt(&self, revocation: Revocation) -> bool {
        self.exempt_from_revocation == Some(revocation.number)
    }

    /// Whether a revocation of all sessions applies: the session was created in a second before it, and is not exempt.
    pub(crate) fn is_revoked(&self, revocation: Revocation) -> bool {
        self.created_at < revocation.revoked_at && !self.is_exempt(revocation)
    }

    /// How long the session lives if it is written now.
    pub(crate) fn lifetime(&self, config: &Config) -> Lifetime {
        let now = OffsetDateTime::now_utc();
        let mut lifetime = lifetime(config, self.expiry, self.created_at, self.confirmed, now);
        let sign_ins = self.sign_ins.values();
        if let Some(age) = sign_ins
            .filter_map(|sign_in| sign_in.remembered_for(now.unix_timestamp()))
            .max()
        {
            lifetime.record = lifetime.record.max(age);
            lifetime.cookie = lifetime.cookie.max(Some(age));
        }
        lifetime
    }

    /// The entries of this session's sign-ins in the index of users. `id`: the session's id in the store.
    /// `expires_at`: in seconds since 1970.
    pub(crate) fn user_entries(&self, id: Id, expires_at: i64) -> Vec<UserEntry> {
        let entry = |(realm, sign_in): (&String, &SignedInUser)| UserEntry {
            user: user_key(sign_in.user()),
            id,
            realm: realm.clone(),
            number: sign_in.number,
            signed_in_at: sign_in.signed_in_at(),
            check_at: sign_in.check_at(expires_at),
        };
        self.sign_ins.iter().map(entry).collect()
    }

    /// The session at this point in time. `expires_at`: in seconds since 1970.
    pub fn snapshot(&self, expires_at: i64) -> Snapshot<S> {
        Snapshot {
            state: self.state.clone(),
            info: Info {
                revision: self.revision,
                created_at: self.created_at,
                expires_at,
                bytes: self.size(),
            },
        }
    }

    /// The fields of the state, including those that this release does not know.
    pub fn fields(&self) -> Map<String, Value> {
        let mut all = self.unknown.clone();
        all.extend(fields(&self.state).unwrap_or_default());
        all
    }

    /// The realms and users of all sign-ins, including those that are no longer valid.
    pub fn sign_ins(&self) -> impl Iterator<Item = (&str, &SignedInUser)> {
        let sign_ins = self.sign_ins.iter();
        sign_ins.map(|(realm, sign_in)| (realm.as_str(), sign_in))
    }

    /// Resets the state and removes the messages, before another user signs in.
    pub(crate) fn clear(&mut self) {
        self.state = S::default();
        self.unknown.clear();
        self.messages.clear();
    }

    /// Whether the session holds nothing worth keeping.
    pub(crate) fn is_empty(&self) -> bool {
        self.state == S::default()
            && self.unknown.is_empty()
            && self.expiry.is_none()
            && self.sign_ins.is_empty()
            && self.test_mark.is_none()
            && self.messages.is_empty()
    }

    /// The seconds since the last write.
    pub(crate) fn seconds_since_write(&self) -> u64 {
        let now = milliseconds(OffsetDateTime::now_utc());
        now.saturating_sub(self.revision) / 1_000
    }

    /// When the session was last written, in seconds since 1970.
    pub fn written_at(&self) -> i64 {
        i64::try_from(self.revision / 1_000).unwrap_or(i64::MAX)
    }

    /// The size of the session in bytes, without the id and the expiry that every record has.
    pub fn size(&self) -> u64 {
        let mut size = Size(0);
        // The writer never fails.
        let _ = rmp_serde::encode::write_named(&mut size, self);
        for field in &self.unknown {
            let _ = rmp_serde::encode::write_named(&mut size, &field);
        }
        size.0
    }

    /// Encodes the session as a record of tower-sessions.
    ///
    /// # Errors
    /// When the state can't be serialized to JSON.
    pub fn record(&self, id: Id, config: &Config) -> Result<Record, SessionError> {
        let mut value = serde_json::to_value(self)?;
        if let Some(Value::Object(fields)) = value.get_mut(STATE) {
            for (name, value) in &self.unknown {
                fields.entry(name).or_insert_with(|| value.clone());
            }
        }
        Ok(Record {
            id,
            data: HashMap::from([(KEY.to_owned(), value)]),
            expiry_date: expires_in(self.lifetime(config).record),
        })
    }
}

/// Whether a record holds a session.
#[cfg(feature = "redis")]
pub fn is_session(record: &Record) -> bool {
    record.data.contains_key(KEY)
}

/// A writer that counts bytes.
struct Size(u64);

impl io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn milliseconds(time: OffsetDateTime) -> u64 {
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

/// The time `age` seconds from now, in whole seconds, because Redis stores expiries in seconds.
pub fn expires_in(age: u64) -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let age = Duration::seconds(i64::try_from(age).unwrap_or(i64::MAX));
    now.checked_add(age)
        .unwrap_or(time::PrimitiveDateTime::MAX.assume_utc())
}

/// A random wait of up to eight milliseconds, so that servers that conflicted don't conflict again.
pub fn jitter() -> StdDuration {
    // Without random numbers there is no jitter, which does no harm.
    StdDuration::from_micros(getrandom::u64().unwrap_or(0) % 8_000)
}
