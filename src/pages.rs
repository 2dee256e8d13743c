//! The pages, one file each, with its handler, its view and its server functions.
//!
//! A handler reads and changes the session, then returns a `server::page::Page`. Changes are saved before the view is
//! rendered, and so before the response starts. To add a page, add a file here and a route in `server::app`.

#[cfg(feature = "ssr")]
pub mod about;
pub mod counter;
#[cfg(feature = "ssr")]
pub mod not_found;
#[cfg(feature = "ssr")]
pub mod reset;

/// The title and path of each page that the header links to.
pub const LINKS: [(&str, &str); 3] = [
    ("Counter", "/"),
    ("Your session", "/about"),
    ("Reset", "/reset"),
];
