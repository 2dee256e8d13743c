//! Tests the server's binary over HTTP, with real stores.
//!
//! Each file covers one subject. All of them form one binary, so that they are linked only once. `support` starts and
//! stops what the tests need.

mod support;

mod bad_input;
mod cluster;
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
