//! What the server functions have in common.

use crate::{call_error::CallError, client_session::ClientSession, visitor::Visitor};

/// Changes the visitor for a server function, and returns what the change returned and the session after it.
///
/// # Errors
/// [`CallError::Unavailable`] where it could not be saved, [`CallError::RateLimited`] where the visitor's address has
/// made too many sessions.
pub async fn update<T: Send + 'static>(
    change: impl Fn(&mut Visitor) -> T + Send + Sync + 'static,
) -> Result<(T, Option<ClientSession>), CallError> {
    let session = tally_session::use_session::<Visitor>()?;
    let returned = session.update(change).await?;
    Ok((returned, ClientSession::of(&session)))
}
