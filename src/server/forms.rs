//! Responses to forms that are submitted without JavaScript.
//!
//! leptos_axum responds with 302 to an address with a stray `?`, and adds errors as a query that anyone could forge.
//! Here the response is 303 to the path of the page on this site.

use axum::{
    extract::Request,
    http::{
        HeaderValue, Method, StatusCode,
        header::{ACCEPT, LOCATION},
    },
    response::Response,
};

use super::middleware::Inner;

/// The address of the counter page after a form, which makes the page not count another visit.
const COUNTED: &str = "/?counted=";

/// Redirects the browser after a form without JavaScript has called a server function.
pub async fn redirect<S: Inner>((): (), request: Request, inner: S) -> Response {
    let is_form = request.method() == Method::POST && accepts_html(request.headers().get(ACCEPT));
    let response = inner.respond(request).await;
    if is_form {
        redirect_to_page(response)
    } else {
        response
    }
}

/// Turns leptos_axum's redirect into a 303 to the path of the page with the form.
///
/// Errors are dropped from the address, because the page itself shows what is wrong.
fn redirect_to_page(mut response: Response) -> Response {
    let Some(location) = response.headers().get(LOCATION) else {
        return response;
    };
    // The form has already counted, so the counter page must not count this load.
    let path = match location.to_str().map_or("/", path_of) {
        "/" => COUNTED.to_owned(),
        other => other.to_owned(),
    };
    let value = HeaderValue::from_str(&path).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(LOCATION, value);
    *response.status_mut() = StatusCode::SEE_OTHER;
    response
}

fn accepts_html(accept: Option<&HeaderValue>) -> bool {
    accept
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/html"))
}

/// The path of a URL without its query, or `/` if the result could lead to another site.
fn path_of(location: &str) -> &str {
    let rest = match location.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => location,
    };
    let path = rest.split(['?', '#']).next().unwrap_or("/");
    let own = path.starts_with('/') && !path.starts_with("//") && !path.starts_with("/\\");
    if own { path } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_the_site() {
        assert_eq!(path_of("http://localhost:3000/about?"), "/about");
        assert_eq!(path_of("http://localhost:3000/?__err=abc"), "/");
        assert_eq!(path_of("http://localhost:3000"), "/");
        assert_eq!(path_of("/about"), "/about");
        assert_eq!(path_of("//evil.example/"), "/");
        assert_eq!(path_of("https://evil.example//other.example/x"), "/");
    }
}
