//! Why a store does not do what it is asked for, in one word.

use std::fmt;

use tower_sessions::session_store;

/// The reason, as far as the engine's error tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A replica, or a file that can't be written.
    ReadOnly,
    /// No memory for what is to be written.
    Memory,
    /// The store's rights don't allow it.
    Rights,
    /// The disk is full, or can't be written.
    Disk,
    /// Too few replicas have what was written.
    Replicas,
    /// The server has just started, or waits for a master.
    Loading,
    /// The store, or this server's pool, has no connection left.
    Connections,
    /// No response, or one that says nothing of the above.
    Unreachable,
}

/// Parts of errors that tell the reason, the more certain ones first.
const SIGNS: [(&str, Refusal); 35] = [
    ("NOREPLICAS", Refusal::Replicas),
    ("replicas have the record", Refusal::Replicas),
    ("READONLY", Refusal::ReadOnly),
    ("readonly database", Refusal::ReadOnly),
    ("Read-only file system", Refusal::ReadOnly),
    ("read-only transaction", Refusal::ReadOnly),
    ("--read-only", Refusal::ReadOnly),
    ("READ ONLY transaction", Refusal::ReadOnly),
    ("OOM ", Refusal::Memory),
    ("out of memory", Refusal::Memory),
    ("NOPERM", Refusal::Rights),
    ("NOAUTH", Refusal::Rights),
    ("WRONGPASS", Refusal::Rights),
    ("ACL failure", Refusal::Rights),
    ("can't run this command", Refusal::Rights),
    ("Authentication Error", Refusal::Rights),
    ("Permission denied", Refusal::Rights),
    ("permission denied", Refusal::Rights),
    ("password authentication failed", Refusal::Rights),
    ("command denied to user", Refusal::Rights),
    ("Access denied for user", Refusal::Rights),
    ("MISCONF", Refusal::Disk),
    ("No space left", Refusal::Disk),
    ("disk is full", Refusal::Disk),
    ("disk I/O error", Refusal::Disk),
    ("is full (HY000)", Refusal::Disk),
    ("Disk quota", Refusal::Disk),
    ("Input/output error", Refusal::Disk),
    ("LOADING", Refusal::Loading),
    ("MASTERDOWN", Refusal::Loading),
    ("CLUSTERDOWN", Refusal::Loading),
    ("database system is", Refusal::Loading),
    ("Too many connections", Refusal::Connections),
    ("too many clients", Refusal::Connections),
    ("no connection was free", Refusal::Connections),
];

impl Refusal {
    /// The reason for an error.
    pub fn of(error: &session_store::Error) -> Self {
        let text = error.to_string();
        let sign = SIGNS.iter().find(|(sign, _)| text.contains(sign));
        sign.map_or(Self::Unreachable, |(_, refusal)| *refusal)
    }

    /// Whether the store has said that nothing was done, and will say so again at once.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Memory | Self::Rights | Self::Disk)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ReadOnly => "readonly",
            Self::Memory => "memory",
            Self::Rights => "rights",
            Self::Disk => "disk",
            Self::Replicas => "replicas",
            Self::Loading => "loading",
            Self::Connections => "connections",
            Self::Unreachable => "unreachable",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_words_tell_the_reason() {
        let reason = |text: &str| Refusal::of(&session_store::Error::Backend(text.to_owned()));
        for (text, refusal) in [
            ("Unknown Error: READONLY You can't write", Refusal::ReadOnly),
            (
                "(code: 8) attempt to write a readonly database",
                Refusal::ReadOnly,
            ),
            ("OOM command not allowed when used memory", Refusal::Memory),
            ("NOPERM this user has no permissions", Refusal::Rights),
            ("(code: 13) database or disk is full", Refusal::Disk),
            ("No space left on device (os error 28)", Refusal::Disk),
            ("only 0 replicas have the record yet", Refusal::Replicas),
            ("Timeout Error: Request timed out.", Refusal::Unreachable),
        ] {
            assert_eq!(reason(text), refusal, "{text}");
        }
    }
}
