//! Server-side sessions for axum and Leptos that never lose an update to a concurrent request.
//!
//! The data stays on the server. The client has only a cookie with the session's id.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use serde::{Deserialize, Serialize};
//! use tally_session::{Session, SessionError, SessionManager, SessionState};
//!
//! #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
//! struct Cart { items: u64 }
//! impl SessionState for Cart {}
//!
//! async fn index(session: Session<Cart>) -> Result<String, SessionError> {
//!     let items = session.update(|cart| { cart.items += 1; cart.items }).await?;
//!     Ok(format!("{items} items"))
//! }
//!
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let sessions = SessionManager::<Cart>::connect("redis://127.0.0.1:6379").await?;
//! let app = Router::new().route("/", get(index)).layer(sessions.layer());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! axum::serve(listener, app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Changes are functions
//!
//! [`Session::update`] loads the newest record, runs the function, and saves the result if the stored record has not
//! changed in the meantime. Otherwise it tries again with the newer record. So requests never overwrite each other's
//! changes, on one server or on many. The function may run more than once, so it must depend only on the state.
//!
//! A request's changes are saved before its response begins. If the response fails (a status of 500 or more, 408, a
//! panic, or a client that disconnects), the changes are rolled back, and the session keeps its id.
//!
//! # Beyond the state
//!
//! ```no_run
//! use tally_session::{Expiry, Level, Map, Message, Session, auth::SignIn};
//!
//! # async fn tour(session: Session<Map>) -> Result<(), Box<dyn std::error::Error>> {
//! session.insert("colour", "blue").await?;                 // values by string keys
//! session.set_expiry(Some(Expiry::seconds(1_800)?)).await?;
//! session.sign_in("members", SignIn::new("ada")).await?;   // a new id with the same data
//! let member = session.signed_in("members").await?;        // the signed-in user
//! let devices = session.user_sessions("members").await?;   // all the user's sessions: list them, end some or all
//! session.sign_out("members").await?;                      // a new id with the same data
//! session.add_message(Message::new(Level::Success, "Bye.")).await?;
//! session.flush().await?;                                  // deletes the record and the cookie
//! # Ok(())
//! # }
//! ```
//!
//! - [`auth`]: users, sign-ins with their own limits, and the sessions of a user
//! - [`Config`]: the cookie, lifetimes and limits
//! - [`store`]: the stores, and the traits for a store of your own
//! - [`SessionManager::metrics`]: counters for monitoring
//!
//! # tower-sessions
//!
//! Records, ids and stores are those of tower-sessions. Its manager layer is not used, because it overwrites whole
//! records (the last writer wins), sends no `Vary` header, does not store a session's own expiry, loses the session
//! when a response with a new id fails with a 5xx status, and stores a record for each unknown id under `always_save`.

mod admin;
pub mod auth;
mod change;
mod commit;
mod config;
#[cfg(not(fuzzing))]
mod cookie;
#[cfg(fuzzing)]
pub mod cookie;
mod envelope;
mod error;
mod expiry;
#[cfg(feature = "axum")]
mod extract;
mod flash;
mod id;
mod layer;
#[cfg(feature = "leptos")]
mod leptos;
mod limit;
mod live;
mod login_token;
mod manager;
mod map;
mod metrics;
mod queue;
mod request;
mod revocation;
mod rollback;
mod session;
mod state;
mod stats;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;

pub use admin::{Listed, Statistics};
pub use config::{Config, ConfigError, CookieHost, CookieSecure, SameSite, Transport};
pub use envelope::{Envelope, Info, Snapshot};
pub use error::SessionError;
pub use expiry::{Expiry, PastExpiry};
pub use flash::{Level, Message};
pub use id::SessionId;
pub use layer::{ClientInfo, SessionFailure, SessionLayer, SessionService};
#[cfg(feature = "leptos")]
pub use leptos::use_session;
pub use limit::{Rate, rate_limit_key};
pub use live::{SessionEvent, Subscription};
pub use manager::{ConnectError, SessionManager};
pub use map::Map;
pub use metrics::{Metrics, StoreTimes};
pub use session::Session;
pub use state::{Counter, SessionState};
