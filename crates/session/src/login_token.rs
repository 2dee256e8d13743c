//! Login tokens. A realm trusts the browser that opens a link with a token. A token can be used once, within a limited
//! time. The store has only its hash.

use super::{
    SessionError,
    envelope::expires_in,
    id::SessionId,
    store::{Store, values},
};

/// Names the value of a token, before the token's hash.
const PREFIX: &str = "login-token:";

/// Creates a token that is valid for `age` seconds, and returns its text.
///
/// # Errors
/// When the store fails, or the operating system provides no random numbers.
pub async fn create(store: &dyn Store, realm: &str, age: u32) -> Result<String, SessionError> {
    let id = SessionId::generate()?;
    values::set(store, &name(&id), realm, expires_in(age.into())).await?;
    Ok(id.cookie_value())
}

/// Redeems a token of a realm, and returns whether it was valid and unused.
///
/// # Errors
/// When the store did not respond. The token may have been used up.
pub async fn redeem(store: &dyn Store, realm: &str, token: &str) -> Result<bool, SessionError> {
    let Some(id) = SessionId::parse(token.as_bytes()) else {
        return Ok(false);
    };
    let name = name(&id);
    if values::get(store, &name).await?.as_deref() != Some(realm) {
        return Ok(false);
    }
    Ok(values::take(store, &name).await?.is_some())
}

fn name(id: &SessionId) -> String {
    format!("{PREFIX}{}", id.hashed())
}
