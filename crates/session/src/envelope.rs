//! What is stored for a session: its state, and what the core itself must remember.

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

/// The record's one key. One key alone, so that a record always encodes to the same bytes, which
/// is what compare-and-save compares.
const KEY: &str = "tally";

/// Where the state stands in it.
const STATE: &str = "state";

/// So many servers' last writes are remembered; more than that rarely write one session within
/// the seconds that a broken save is asked after.
const MOST_WRITERS: usize = 8;

/// A session as it is stored.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "S: SessionState"))]
pub struct Envelope<S> {
    /// Each server's last write, newest first. A server writes one session one write at a time, so
    /// after a broken connection its own entry tells for certain whether the write took.
    #[serde(rename = "writers")]
    pub(crate) recent_writes: Vec<WriteStamp>,
    /// When the last change was, in milliseconds since 1970, or one more than the change before where
    /// the clock has not moved on: tells open pages which of two states is the newer one.
    #[serde(default)]
    pub revision: u64,
    /// When the session was made, in seconds since 1970: the absolute limit counts from here.
    #[serde(rename = "began")]
    pub created_at: i64,
    /// The cookie has come back at least once.
    pub confirmed: bool,
    /// The session's own expiry, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Expiry>,
    /// Who has signed in, by realm.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sign_ins: BTreeMap<String, SignedInUser>,
    /// The realms that trust this browser: somebody has signed in there with it before, or has used a login token,
    /// and may try again whatever others do.
    #[serde(
        rename = "known_in",
        default,
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub(crate) trusted_by: BTreeSet<String>,
    /// The number of the last revocation of all sessions that has spared this one.
    #[serde(rename = "spared_by", default, skip_serializing_if = "Option::is_none")]
    pub(crate) exempt_from_revocation: Option<u64>,
    /// The request that has marked the session for the cookie test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) test_mark: Option<u64>,
    /// What the next page shows once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    pub state: S,
    /// Fields of the state that this release does not know: kept as they are, so that two releases can run
    /// side by side.
    #[serde(skip)]
    unknown: Map<String, Value>,
}

/// Shows nothing of the state, which may be anybody's secret.
impl<S> fmt::Debug for Envelope<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Envelope")
            .field("revision", &self.revision)
            .field("created_at", &self.created_at)
            .finish_non_exhaustive()
    }
}

/// A session at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot<S> {
    pub state: S,
    pub info: Info,
}

/// What is known of a session besides its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Grows with each write, so that the newer one of two snapshots is known.
    pub revision: u64,
    /// When the session was made, in seconds since 1970.
    pub created_at: i64,
    /// When it ends if nothing writes it, in seconds since 1970.
    pub expires_at: i64,
    /// How much is kept, in bytes.
    pub bytes: u64,
}

/// One write: which server, and a number drawn anew each time.
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

    /// What a record holds, or `None` where it can't be decoded.
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

    /// Numbers a change, of which several may go in one write.
    pub(crate) fn bump_revision(&mut self) {
        let now = milliseconds(OffsetDateTime::now_utc());
        self.revision = now.max(self.revision.saturating_add(1));
    }

    /// Signs the write that is about to be sent.
    pub(crate) fn stamp(&mut self, write: WriteStamp) {
        self.recent_writes
            .retain(|other| other.server != write.server);
        self.recent_writes.insert(0, write);
        self.recent_writes.truncate(MOST_WRITERS);
    }

    /// Whether the write took, be it the last one or not.
    pub(crate) fn is_stamped(&self, write: WriteStamp) -> bool {
        self.recent_writes.contains(&write)
    }

    /// Whether a revocation of all sessions has spared this one.
    pub(crate) fn is_exempt(&self, revocation: Revocation) -> bool {
        self.exempt_from_revocation == Some(revocation.number)
    }

    /// Whether the session was there in the seconds before a revocation, which has not spared it: it
    /// should be gone.
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

    /// The sign-ins of a session of this id, as an index of users keeps them. The session ends at `expires_at`, in
    /// seconds since 1970.
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

    /// The session as it is now, which ends at `expires_at` (seconds since 1970).
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

    /// The fields of the state, with those that this release does not know.
    pub fn fields(&self) -> Map<String, Value> {
        let mut all = self.unknown.clone();
        all.extend(fields(&self.state).unwrap_or_default());
        all
    }

    /// Who is signed in to which realm, whether the sign-in still holds or not.
    pub fn sign_ins(&self) -> impl Iterator<Item = (&str, &SignedInUser)> {
        let sign_ins = self.sign_ins.iter();
        sign_ins.map(|(realm, sign_in)| (realm.as_str(), sign_in))
    }

    /// Leaves nothing to another user: the state is the default one, and no message waits.
    pub(crate) fn clear(&mut self) {
        self.state = S::default();
        self.unknown.clear();
        self.messages.clear();
    }

    /// Whether nothing is kept that anybody would miss.
    pub(crate) fn is_empty(&self) -> bool {
        self.state == S::default()
            && self.unknown.is_empty()
            && self.expiry.is_none()
            && self.sign_ins.is_empty()
            && self.test_mark.is_none()
            && self.messages.is_empty()
    }

    /// How long ago it was last written.
    pub(crate) fn seconds_since_write(&self) -> u64 {
        let now = milliseconds(OffsetDateTime::now_utc());
        now.saturating_sub(self.revision) / 1_000
    }

    /// When it was last written, in seconds since 1970.
    pub fn written(&self) -> i64 {
        i64::try_from(self.revision / 1_000).unwrap_or(i64::MAX)
    }

    /// How much is kept, in bytes, without the id and the expiry that go with every record.
    pub fn size(&self) -> u64 {
        let mut size = Size(0);
        // Nothing that can be counted fails to be.
        let _ = rmp_serde::encode::write_named(&mut size, self);
        for field in &self.unknown {
            let _ = rmp_serde::encode::write_named(&mut size, &field);
        }
        size.0
    }

    /// The record of tower-sessions that holds this.
    ///
    /// # Errors
    /// When the state can't be written as JSON.
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

/// Whether a record is a session.
#[cfg(feature = "redis")]
pub fn is_session(record: &Record) -> bool {
    record.data.contains_key(KEY)
}

/// Counts what is written.
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

/// The point in time `age` seconds from now, in whole seconds as Redis keeps it.
pub fn expires_in(age: u64) -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let age = Duration::seconds(i64::try_from(age).unwrap_or(i64::MAX));
    now.checked_add(age)
        .unwrap_or(time::PrimitiveDateTime::MAX.assume_utc())
}

/// A short random wait, up to eight milliseconds, that keeps losers of a race from meeting again.
pub fn jitter() -> StdDuration {
    // Without random numbers everybody waits the same, which does no harm.
    StdDuration::from_micros(getrandom::u64().unwrap_or(0) % 8_000)
}
