//! Messages that the next page shows once: a form's answer is a redirect, so what became of it has
//! to wait in the session.

use serde::{Deserialize, Serialize};

/// So many wait at the most; more push the oldest out.
const MOST: usize = 10;

/// One message to the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub level: Level,
    pub text: String,
}

/// How much a message matters: the levels of Django, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For developers.
    Debug,
    /// For information.
    Info,
    /// An action succeeded.
    Success,
    /// Something will go wrong.
    Warning,
    /// An action failed.
    Error,
}

impl Message {
    /// A message of this level.
    pub fn new(level: Level, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { level, text }
    }
}

/// Adds a message to those that wait.
pub fn add(waiting: &mut Vec<Message>, message: Message) {
    waiting.push(message);
    let extra = waiting.len().saturating_sub(MOST);
    waiting.drain(..extra);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut waiting = Vec::new();
        for number in 0..=MOST {
            let text = number.to_string();
            add(
                &mut waiting,
                Message {
                    level: Level::Success,
                    text,
                },
            );
        }
        assert_eq!(waiting.len(), MOST);
        assert_eq!(waiting[0].text, "1");
    }
}
