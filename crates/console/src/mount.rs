//! The path at which the application has nested the console.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, NestedPath},
    http::{HeaderValue, StatusCode, header::LOCATION, request::Parts},
    response::{IntoResponse, Response},
};

/// The path of the console, without a trailing slash. Every URL on its pages starts with it.
#[derive(Clone, Debug, Default)]
pub struct Mount(String);

impl Mount {
    /// The path of the overview and of the sign-in page.
    pub fn root(&self) -> &str {
        if self.0.is_empty() { "/" } else { &self.0 }
    }

    /// The full path of a page. `path` starts with a slash.
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// Redirects the browser to a page after it has submitted a form.
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
