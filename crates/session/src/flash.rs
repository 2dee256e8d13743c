//! Flash messages. A form's response is a redirect, so a message about its result waits in the session for the next
//! page.

use serde::{Deserialize, Serialize};

/// The most pending messages. A further one drops the oldest.
const MAX_PENDING: usize = 10;

/// A message for the next page to show once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub level: Level,
    pub text: String,
}

/// The severity of a message: Django's levels, the lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For developers.
    Debug,
    /// For information.
    Info,
    /// An action succeeded.
    Success,
    /// Something may go wrong.
    Warning,
    /// An action failed.
    Error,
}

impl Message {
    /// Creates a message.
    pub fn new(level: Level, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { level, text }
    }
}

/// Adds a message to the pending ones.
pub fn add(pending: &mut Vec<Message>, message: Message) {
    pending.push(message);
    let extra = pending.len().saturating_sub(MAX_PENDING);
    pending.drain(..extra);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_message_is_dropped_at_the_limit() {
        let mut pending = Vec::new();
        for number in 0..=MAX_PENDING {
            let text = number.to_string();
            add(
                &mut pending,
                Message {
                    level: Level::Success,
                    text,
                },
            );
        }
        assert_eq!(pending.len(), MAX_PENDING);
        assert_eq!(pending[0].text, "1");
    }
}
