//! Session ids: the secret in the cookie, and its hash, which is the id in the store.

use std::fmt;

use sha2::{Digest, Sha256};
use tower_sessions::session::Id;

/// The length of an id in a cookie: 128 bits as hexadecimal digits.
const LENGTH: usize = 32;

/// A session's secret id: 128 random bits from the operating system. Its `Debug` output does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionId(u128);

impl SessionId {
    /// Generates a new id.
    ///
    /// # Errors
    /// When the operating system provides no random numbers.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }

    /// Parses a cookie's value. `None`: it is malformed.
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

    /// The value of the cookie.
    pub fn cookie_value(&self) -> String {
        format!("{:032x}", self.0)
    }

    /// The id in the store: half a SHA-256. A dump of the store reveals no id that a client could use.
    pub fn hashed(&self) -> Id {
        half_hash(self.0.to_be_bytes())
    }
}

/// Half a SHA-256, as an id in the store.
pub fn half_hash(bytes: impl AsRef<[u8]>) -> Id {
    let hash = Sha256::digest(bytes);
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    Id(i128::from_be_bytes(half))
}

/// The length of a short id: 60 bits, so that a million sessions have different short ids.
pub const SHORT_ID_LENGTH: usize = 10;

/// The short id of a session: the beginning of its id in the store. It is safe to show to people, because it gives no
/// access to the session.
pub fn short_id(hashed: &Id) -> String {
    let mut short_id = hashed.to_string();
    short_id.truncate(SHORT_ID_LENGTH);
    short_id
}

/// Whether a text can be the beginning of a short id.
pub fn is_short_id(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=SHORT_ID_LENGTH).contains(&text.len()) && text.bytes().all(is_allowed)
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
    fn an_id_round_trips_through_the_cookie_and_is_hidden_from_the_store() {
        let id = SessionId::generate().expect("random numbers");
        let value = id.cookie_value();
        assert_eq!(SessionId::parse(value.as_bytes()), Some(id.clone()));
        assert_ne!(format!("{:032x}", id.hashed().0), value);
        assert!(!format!("{id:?}").contains(&value));
    }

    #[test]
    fn malformed_values_are_rejected() {
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
