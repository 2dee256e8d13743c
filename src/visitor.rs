//! What a visitor's session holds, and how it may change.
//!
//! Every method is a pure function of the visitor: when two requests meet, the loser's change is
//! run again on the newer state, so a change must not read a clock, a request or a store.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The sessions of this app's visitors.
#[cfg(feature = "ssr")]
pub type Sessions = tally_session::SessionManager<Visitor>;

/// One request's session, which holds a [`Visitor`].
#[cfg(feature = "ssr")]
pub type Session = tally_session::Session<Visitor>;

/// One visitor's state, as it is kept in the session.
///
/// Replace the fields by your own; keep `visits` and `theme`, which the counters and the operator's console
/// read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Visitor {
    /// How often the visitor came, since the beginning or the last reset.
    #[serde(default)]
    pub visits: u64,
    /// The colours that the visitor chose.
    #[serde(default, skip_serializing_if = "Theme::is_system")]
    pub theme: Theme,
    /// What the visitor has written into the form on `/about`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub draft: String,
}

#[cfg(feature = "ssr")]
impl tally_session::SessionState for Visitor {
    /// Takes the visits of a failed request, which went from `before` to `after`, from a count that others went
    /// on with to `newest`; where they have reset it since, they took them along.
    fn revert(&mut self, before: &Self, after: &Self, newest: &Self) {
        if newest.visits > after.visits {
            self.visits = newest.visits - added_visits(before, after);
        }
    }

    const COUNTERS: &'static [tally_session::Counter<Self>] =
        &[tally_session::Counter::new(VISITS, added_visits)];
}

/// The counter of visits: its line on the console's charts, and its label in metrics.
#[cfg(feature = "ssr")]
pub const VISITS: &str = "visits";

/// The visits that a change counted.
#[cfg(feature = "ssr")]
fn added_visits(before: &Visitor, after: &Visitor) -> u64 {
    after.visits.saturating_sub(before.visits)
}

/// The most that a draft may have, in characters.
pub const LONGEST_DRAFT: usize = 500;

/// Light or dark, or as the visitor's system has it.
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

    /// Its name in the session, in forms, and in style sheets.
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

/// A name that this release does not know must not cost the visitor the session.
impl From<String> for Theme {
    fn from(name: String) -> Self {
        let known = Self::ALL.into_iter().find(|theme| theme.name() == name);
        known.unwrap_or_default()
    }
}

impl From<Theme> for &'static str {
    fn from(theme: Theme) -> Self {
        theme.name()
    }
}

/// The draft has more than [`LONGEST_DRAFT`] characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a draft has {LONGEST_DRAFT} characters at the most")]
pub struct TooLong;

/// What open pages show of a visitor. A page makes the same changes to it as the server to the visitor, so that it need
/// not wait for the response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisitorView {
    pub visits: u64,
    pub theme: Theme,
    pub draft: String,
}

impl Visitor {
    /// Counts one visit and returns the new count.
    pub fn visit(&mut self) -> u64 {
        self.visits = self.visits.saturating_add(1);
        self.visits
    }

    /// Sets the count to 0 and returns it.
    pub fn reset(&mut self) -> u64 {
        self.visits = 0;
        self.visits
    }

    /// Chooses the colours.
    pub fn choose_theme(&mut self, theme: Theme) {
        self.theme = theme;
    }

    /// Keeps what was written into the form.
    ///
    /// # Errors
    /// [`TooLong`]; the draft then stays as it was.
    pub fn keep_draft(&mut self, draft: &str) -> Result<(), TooLong> {
        // Forms send line breaks as two characters.
        let draft = draft.replace("\r\n", "\n");
        if draft.chars().count() > LONGEST_DRAFT {
            return Err(TooLong);
        }
        self.draft = draft;
        Ok(())
    }

    /// What open pages show.
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
    fn a_theme_of_another_release_is_no_error() {
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
    fn a_draft_that_is_too_long_leaves_the_old_one() {
        let mut visitor = Visitor::default();
        assert_eq!(visitor.keep_draft("a\r\nb"), Ok(()));
        assert_eq!(visitor.keep_draft(&"ü".repeat(501)), Err(TooLong));
        assert_eq!(visitor.draft, "a\nb");
        assert_eq!(visitor.keep_draft(&"ü".repeat(500)), Ok(()));
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
