//! Login tokens: a realm trusts the browser that opens a link with one, once and for a while. The store has a hash of
//! what the link carries.

use super::{
    SessionError,
    envelope::expires_in,
    id::SessionId,
    store::{Store, values},
};

/// Before the token's hash.
const NAME: &str = "login-token:";

/// Makes a token that may be used for this number of seconds, and returns what a link carries.
///
/// # Errors
/// When the store can't be asked, or the system gives no random numbers.
pub async fn make(store: &dyn Store, realm: &str, age: u32) -> Result<String, SessionError> {
    let id = SessionId::generate()?;
    values::set(store, &name(&id), realm, expires_in(age.into())).await?;
    Ok(id.cookie_value())
}

/// Uses a token of this realm up, and returns whether it was one that nobody had used.
///
/// # Errors
/// When the store did not respond. The token may be used up then.
pub async fn use_up(store: &dyn Store, realm: &str, carried: &str) -> Result<bool, SessionError> {
    let Some(id) = SessionId::parse(carried.as_bytes()) else {
        return Ok(false);
    };
    let name = name(&id);
    if values::get(store, &name).await?.as_deref() != Some(realm) {
        return Ok(false);
    }
    Ok(values::take(store, &name).await?.is_some())
}

fn name(id: &SessionId) -> String {
    format!("{NAME}{}", id.hashed())
}
