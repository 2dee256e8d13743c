//! The interactive parts of the pages. The rest of a page is plain HTML.
//!
//! The server renders an island, and the browser hydrates it. All islands of a page share one [`store`].

pub mod action_queue;
pub mod counter;
pub mod draft;
pub mod live;
pub mod notices;
pub mod session_facts;
pub mod store;
pub mod theme;

pub use counter::{Counter, VisitCount};
pub use draft::Draft;
pub use notices::Notices;
pub use session_facts::SessionFacts;
pub use theme::ThemeChoice;
