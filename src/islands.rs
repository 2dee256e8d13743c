//! What is interactive on the pages. The rest of a page is plain HTML that the server renders.
//!
//! An island is rendered by the server, and hydrated in the browser. All islands of a page share one [`store`].

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
