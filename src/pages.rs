//! The pages, one file each: its handler, its view, and the server functions that it calls.
//!
//! A handler changes and reads the session, then returns a `server::page::Page`. What it wrote is stored
//! before the head of the response goes out, because the view is made afterwards. A new page is a file here and a line
//! in `server::routes`.

#[cfg(feature = "ssr")]
pub mod about;
pub mod counter;
#[cfg(feature = "ssr")]
pub mod not_found;
#[cfg(feature = "ssr")]
pub mod reset;

/// The pages that the header links: the title and the path of each.
pub const LINKS: [(&str, &str); 3] = [
    ("Counter", "/"),
    ("Your session", "/about"),
    ("Reset", "/reset"),
];
