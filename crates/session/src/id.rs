//! Session ids: what the cookie carries, and the hash under which the store knows it.

use std::fmt;

use sha2::{Digest, Sha256};
use tower_sessions::session::Id;

/// The length of an id in a cookie: 128 bits in hexadecimal digits.
const LENGTH: usize = 32;

/// A client's secret: 128 bits from the operating system's generator. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionId(u128);

impl SessionId {
    /// A new id.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }

    /// The id that a cookie's value names, or `None` where it is malformed.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let digits = value
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if value.len() != LENGTH || !digits {
            return None;
        }
        let text = std::str::from_utf8(value).ok()?;
        u128::from_str_radix(text, 16).ok().map(Self)
    }

    /// The cookie's value.
    pub fn cookie_value(&self) -> String {
        format!("{:032x}", self.0)
    }

    /// The id under which the store keeps the record: half a SHA-256, so that a dump of the store
    /// opens no session.
    pub fn hashed(&self) -> Id {
        half_hash(self.0.to_be_bytes())
    }
}

/// Half a SHA-256, as a name in the store.
pub fn half_hash(bytes: impl AsRef<[u8]>) -> Id {
    let hash = Sha256::digest(bytes);
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    Id(i128::from_be_bytes(half))
}

/// How many characters of a record's name make its label: 60 bits, so that a million sessions have
/// a million labels.
pub const SHORT_ID_LENGTH: usize = 10;

/// What people may be shown of a session: a short hash of its id, by which nobody can open it.
pub fn short_id(hashed: &Id) -> String {
    let mut label = hashed.to_string();
    label.truncate(SHORT_ID_LENGTH);
    label
}

/// Whether a label can begin like this.
pub fn is_short_id(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=SHORT_ID_LENGTH).contains(&text.len()) && text.bytes().all(known)
}

impl fmt::Debug for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SessionId(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_the_cookie_and_is_not_what_the_store_sees() {
        let id = SessionId::generate().expect("random numbers");
        let value = id.cookie_value();
        assert_eq!(SessionId::parse(value.as_bytes()), Some(id.clone()));
        assert_ne!(format!("{:032x}", id.hashed().0), value);
        assert!(!format!("{id:?}").contains(&value));
    }

    #[test]
    fn malformed_values_are_no_ids() {
        let long = "a".repeat(10_000);
        let values: [&[u8]; 6] = [
            b"",
            b"abc",
            long.as_bytes(),
            b"../../../../../../../etc/passwd.",
            b"+bcdef0123456789abcdef0123456789",
            b"ABCDEF0123456789ABCDEF0123456789",
        ];
        for value in values {
            assert_eq!(SessionId::parse(value), None);
        }
    }
}
