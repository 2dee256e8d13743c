//! Where the application has mounted the console.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, NestedPath},
    http::{HeaderValue, StatusCode, header::LOCATION, request::Parts},
    response::{IntoResponse, Response},
};

/// The path of the console, which the addresses on its pages begin with.
#[derive(Clone, Debug, Default)]
pub struct Mount(String);

impl Mount {
    /// The overview's address, which is the sign-in page's, too.
    pub fn root(&self) -> &str {
        if self.0.is_empty() { "/" } else { &self.0 }
    }

    /// The address of a page. `path` begins with a slash.
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// Sends the browser to a page, after a form.
    pub fn redirect(&self, path: &str) -> Response {
        let to = if path == "/" {
            self.root().to_owned()
        } else {
            self.path(path)
        };
        let location = HeaderValue::from_str(&to).unwrap_or(HeaderValue::from_static("/"));
        (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()
    }
}

impl<T: Send + Sync> FromRequestParts<T> for Mount {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &T) -> Result<Self, Infallible> {
        let nested = NestedPath::from_request_parts(parts, state).await;
        let path = nested.map(|nested| nested.as_str().trim_end_matches('/').to_owned());
        Ok(Self(path.unwrap_or_default()))
    }
}
