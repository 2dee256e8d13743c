//! Sessions in Leptos: in server functions, and in components that are rendered on the server.

use super::{Session, SessionError, SessionState};

/// Returns the session of the current request.
///
/// It works wherever leptos_axum provides the request's parts: in server functions, and in the components of
/// `LeptosRoutes`.
///
/// ```
/// # use leptos::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # use tally_session::{SessionError, SessionState, use_session};
/// # #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
/// # struct Cart { items: Vec<String> }
/// # impl SessionState for Cart {}
/// async fn add(item: String) -> Result<usize, SessionError> {
///     let session = use_session::<Cart>()?;
///     let items = session.update(move |cart| {
///         cart.items.push(item.clone());
///         cart.items.len()
///     });
///     items.await
/// }
/// ```
///
/// # Errors
/// [`SessionError::NoLayer`] outside of a request, or without a session layer for this state.
pub fn use_session<S: SessionState>() -> Result<Session<S>, SessionError> {
    // `use_context` would clone all headers and extensions: a sixteenth of the instructions of a server function.
    leptos::prelude::with_context(|parts: &http::request::Parts| parts.extensions.get().cloned())
        .flatten()
        .ok_or(SessionError::NoLayer)
}
