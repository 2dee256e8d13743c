//! The axum extractor for sessions, and the response for session errors.

use axum::{
    body::Body,
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use http::request::Parts;

use super::{Session, SessionError, SessionState};

/// Extracts the request's session in a handler inside a [`SessionLayer`](super::SessionLayer).
impl<S: SessionState, T: Sync> FromRequestParts<T> for Session<S> {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _state: &T) -> Result<Self, SessionError> {
        let session = parts.extensions.get::<Self>();
        session.cloned().ok_or(SessionError::NoLayer)
    }
}

/// Responds as [`SessionError::response`].
impl IntoResponse for SessionError {
    fn into_response(self) -> Response {
        self.response().map(Body::from)
    }
}
