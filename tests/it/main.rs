//! The server's binary over HTTP, with real stores.
//!
//! One file for each subject, and one binary for all of them, so that they are linked once. `support` starts what the
//! tests need, and stops it.

mod support;

mod bad_input;
mod command;
mod console;
mod databases;
mod docs;
mod faults;
mod headers;
mod http;
mod live;
mod load;
mod operations;
mod redis;
mod security;
mod session;
mod sign_in;
mod stores;
mod users;
