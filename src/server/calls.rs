//! Shared code of the server functions.

use crate::{call_error::CallError, client_session::ClientSession, visitor::Visitor};

/// Updates the visitor in a server function. Returns the result of the change, and the session after it.
///
/// # Errors
/// Returns [`CallError::Unavailable`] if the change can't be saved, and [`CallError::RateLimited`] if the client's
/// address has created too many sessions.
pub async fn update<T: Send + 'static>(
    change: impl Fn(&mut Visitor) -> T + Send + Sync + 'static,
) -> Result<(T, Option<ClientSession>), CallError> {
    let session = tally_session::use_session::<Visitor>()?;
    let returned = session.update(change).await?;
    Ok((returned, ClientSession::of(&session)))
}
