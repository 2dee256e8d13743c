//! Forms without script. leptos_axum answers them 302, with a stray `?` behind the address and
//! errors in a query that anyone could forge; a form's answer is 303 to a page of this site.

use axum::{
    extract::Request,
    http::{
        HeaderValue, Method, StatusCode,
        header::{ACCEPT, LOCATION},
    },
    response::Response,
};

use super::middleware::Inner;

/// The address of the counter's page after a form.
const COUNTED: &str = "/?counted=";

/// Redirects a form that a page without script has sent to a server function.
pub async fn redirect<S: Inner>((): (), request: Request, inner: S) -> Response {
    let is_form = request.method() == Method::POST && accepts_html(request.headers().get(ACCEPT));
    let response = inner.respond(request).await;
    if is_form {
        answer_form(response)
    } else {
        response
    }
}

/// Turns what leptos_axum answers to a form into a 303 to the path of the page it came from. A
/// failure needs no message in the address: that page says itself what is wrong.
fn answer_form(mut response: Response) -> Response {
    let Some(location) = response.headers().get(LOCATION) else {
        return response;
    };
    // The form has counted already: the counter's page shows that and adds nothing.
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

/// The path of an address, without its query; never another site's.
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
