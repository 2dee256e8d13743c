//! The state in a visitor's session, and the changes to it.
//!
//! Every change is a pure function of the state: when two requests conflict, one of them runs its change again on the
//! newer state. So a change must not read a clock, a request or a store.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The session manager of this app.
#[cfg(feature = "ssr")]
pub type Sessions = tally_session::SessionManager<Visitor>;

/// The session of a request.
#[cfg(feature = "ssr")]
pub type Session = tally_session::Session<Visitor>;

/// The state that a session stores.
///
/// Replace the fields with your own, but keep `visits` and `theme`, which the counters and the console read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Visitor {
    /// The number of visits since the session was created or the count was last reset.
    #[serde(default)]
    pub visits: u64,
    /// The colour scheme that the visitor has chosen.
    #[serde(default, skip_serializing_if = "Theme::is_system")]
    pub theme: Theme,
    /// The text in the form on `/about`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub draft: String,
}

#[cfg(feature = "ssr")]
impl tally_session::SessionState for Visitor {
    /// Subtracts the visits that a failed request has counted between `before` and `after`.
    ///
    /// If the count is no longer above `after`, another request has reset it since, and nothing is left to subtract.
    fn revert(&mut self, before: &Self, after: &Self, newest: &Self) {
        if newest.visits > after.visits {
            self.visits = newest.visits - added_visits(before, after);
        }
    }

    const COUNTERS: &'static [tally_session::Counter<Self>] =
        &[tally_session::Counter::new(VISITS, added_visits)];
}

/// The name of the visit counter, in the console's charts and in the metrics.
#[cfg(feature = "ssr")]
pub const VISITS: &str = "visits";

/// The number of visits that a change has counted.
#[cfg(feature = "ssr")]
fn added_visits(before: &Visitor, after: &Visitor) -> u64 {
    after.visits.saturating_sub(before.visits)
}

/// The maximum length of a draft, in characters.
pub const MAX_DRAFT_LENGTH: usize = 500;

/// A colour scheme: light, dark, or the preference of the visitor's system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "&'static str")]
pub enum Theme {
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    pub const ALL: [Self; 3] = [Self::System, Self::Light, Self::Dark];

    /// The name in the session, in forms and in style sheets.
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    fn is_system(&self) -> bool {
        *self == Self::System
    }
}

/// An unknown name becomes the default. As a decoding error it would make the session unreadable.
impl From<String> for Theme {
    fn from(name: String) -> Self {
        let theme = Self::ALL.into_iter().find(|theme| theme.name() == name);
        theme.unwrap_or_default()
    }
}

impl From<Theme> for &'static str {
    fn from(theme: Theme) -> Self {
        theme.name()
    }
}

/// The draft has more than [`MAX_DRAFT_LENGTH`] characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the maximum length of a draft is {MAX_DRAFT_LENGTH} characters")]
pub struct TooLong;

/// The part of the visitor's state that pages show.
///
/// An open page applies each change to its own copy at once, without waiting for the response of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisitorView {
    pub visits: u64,
    pub theme: Theme,
    pub draft: String,
}

impl Visitor {
    /// Counts a visit and returns the new count.
    pub fn visit(&mut self) -> u64 {
        self.visits = self.visits.saturating_add(1);
        self.visits
    }

    /// Sets the count to 0 and returns it.
    pub fn reset(&mut self) -> u64 {
        self.visits = 0;
        self.visits
    }

    /// Sets the colour scheme.
    pub fn choose_theme(&mut self, theme: Theme) {
        self.theme = theme;
    }

    /// Stores the text of the form.
    ///
    /// # Errors
    /// Returns [`TooLong`] if the text is too long, and leaves the draft as it is.
    pub fn save_draft(&mut self, draft: &str) -> Result<(), TooLong> {
        // Browsers submit line breaks as CRLF.
        let draft = draft.replace("\r\n", "\n");
        if draft.chars().count() > MAX_DRAFT_LENGTH {
            return Err(TooLong);
        }
        self.draft = draft;
        Ok(())
    }

    /// Returns the part of the state that pages show.
    pub fn view(&self) -> VisitorView {
        VisitorView {
            visits: self.visits,
            theme: self.theme,
            draft: self.draft.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_order_of_changes_counts_each_visit_once(steps in prop::collection::vec(any::<bool>(), 0..60)) {
            let (mut visitor, mut visits) = (Visitor::default(), 0);
            for is_visit in steps {
                visits = if is_visit { visits + 1 } else { 0 };
                let returned = if is_visit { visitor.visit() } else { visitor.reset() };
                prop_assert_eq!(returned, visits);
            }
        }
    }

    #[test]
    fn an_unknown_theme_decodes_as_the_default() {
        let visitor: Visitor = serde_json::from_str(r#"{"theme":"sepia"}"#).expect("decodes");
        assert_eq!(visitor.theme, Theme::System);
        for theme in Theme::ALL {
            let mut visitor = Visitor::default();
            visitor.choose_theme(theme);
            let kept = serde_json::to_string(&visitor).expect("encodes");
            assert_eq!(serde_json::from_str::<Visitor>(&kept).ok(), Some(visitor));
        }
    }

    #[test]
    fn a_draft_that_is_too_long_is_rejected() {
        let mut visitor = Visitor::default();
        assert_eq!(visitor.save_draft("a\r\nb"), Ok(()));
        assert_eq!(visitor.save_draft(&"ü".repeat(501)), Err(TooLong));
        assert_eq!(visitor.draft, "a\nb");
        assert_eq!(visitor.save_draft(&"ü".repeat(500)), Ok(()));
    }

    #[test]
    fn the_count_does_not_overflow() {
        let mut visitor = Visitor {
            visits: u64::MAX,
            ..Visitor::default()
        };
        assert_eq!(visitor.visit(), u64::MAX);
    }
}
