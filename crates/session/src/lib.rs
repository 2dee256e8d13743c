//! Sessions kept on the server, found again by a small cookie, that lose no update.
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
//! [`Session::update`] loads the newest record, runs the function, and saves only if the stored record is still the
//! one that it loaded; else it does so again. So two requests never overwrite each other, on one server or on many.
//! Hence the function must depend on the state alone: it may run more than once.
//!
//! What a request changed is saved before its response begins. If that response then fails (a status of 500 or more,
//! 408, a panic, or a client that hangs up), the change is taken back, and an id that was to change stays.
//!
//! # More than a state
//!
//! ```no_run
//! use tally_session::{Expiry, Level, Map, Message, Session, auth::SignIn};
//!
//! # async fn tour(session: Session<Map>) -> Result<(), Box<dyn std::error::Error>> {
//! session.insert("colour", "blue").await?;                 // string keys, each a change function
//! session.set_expiry(Some(Expiry::seconds(1_800)?)).await?;
//! session.sign_in("members", SignIn::new("ada")).await?;   // new id, same data, signed in there alone
//! let member = session.signed_in("members").await?;        // who that is
//! let devices = session.user_sessions("members").await?;   // where else; end one, the others, or all
//! session.sign_out("members").await?;                      // new id, same data
//! session.add_message(Message::new(Level::Success, "Bye.")).await?;
//! session.flush().await?;                                  // record and cookie gone
//! # Ok(())
//! # }
//! ```
//!
//! [`auth`] is about users: sign-ins with limits of their own, and the sessions of a user.
//!
//! [`Config`] says how sessions behave, [`store`] holds the engines and what one of your own implements,
//! [`SessionManager::metrics`] what was counted.
//!
//! # tower-sessions
//!
//! Records, ids and stores are those of tower-sessions. Its own manager layer is not used: it writes back whole
//! records (the last writer wins), sends no `Vary`, forgets a session's own expiry, loses the session when a new id
//! meets a 5xx, and stores a record for each unknown id under `always_save`.

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
