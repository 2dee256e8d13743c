//! The reason why a store refuses an operation, in one word.

use std::fmt;

use tower_sessions::session_store;

/// The reason why a store refused an operation, as far as its error shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The store is a replica, or a file that can't be written.
    ReadOnly,
    /// The store has no memory left.
    Memory,
    /// The store's user lacks the rights.
    Rights,
    /// The disk is full, or can't be written.
    Disk,
    /// Too few replicas have the write.
    Replicas,
    /// The store has just started, or waits for a master.
    Loading,
    /// The store, or this server's pool, has no free connection.
    Connections,
    /// The store did not respond, or its error shows none of the other reasons.
    Unreachable,
}

/// The reasons by parts of error messages. The first match counts.
const PATTERNS: [(&str, Refusal); 37] = [
    ("NOREPLICAS", Refusal::Replicas),
    ("replicas have the record", Refusal::Replicas),
    ("READONLY", Refusal::ReadOnly),
    ("readonly database", Refusal::ReadOnly),
    ("Read-only file system", Refusal::ReadOnly),
    ("read-only transaction", Refusal::ReadOnly),
    ("--read-only", Refusal::ReadOnly),
    ("--super-read-only", Refusal::ReadOnly),
    ("Running in read-only mode", Refusal::ReadOnly),
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
        let matched = PATTERNS.iter().find(|(part, _)| text.contains(part));
        matched.map_or(Self::Unreachable, |(_, refusal)| *refusal)
    }

    /// Whether the store has executed nothing, and an immediate retry would fail again.
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
    fn the_error_message_shows_the_reason() {
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
