//! Who may call: requests that change state must come from the site's own pages.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        Method, StatusCode,
        header::{HOST, ORIGIN, UPGRADE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

/// Answers 403 to a request of another site, before anything else sees it. Programs that are no
/// browsers send neither header and pass: they hold no visitor's cookie.
pub async fn same_origin(
    State(trusted): State<Arc<Vec<String>>>,
    request: Request,
    next: Next,
) -> Response {
    let safe = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) && !request.headers().contains_key(UPGRADE);
    if safe || is_own(&request, &trusted) {
        return next.run(request).await;
    }
    (
        StatusCode::FORBIDDEN,
        "This request came from another site, so nothing was changed.\n",
    )
        .into_response()
}

/// Answers 421 to a request for a host that is not this site's, where the settings name the hosts.
pub async fn allowed_host(
    State(allowed): State<Arc<Vec<String>>>,
    request: Request,
    next: Next,
) -> Response {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let name = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
    if allowed.is_empty() || name.is_some_and(|name| allowed.iter().any(|allowed| allowed == name))
    {
        return next.run(request).await;
    }
    (
        StatusCode::MISDIRECTED_REQUEST,
        "This is not the site that you asked for.\n",
    )
        .into_response()
}

fn is_own(request: &Request, trusted: &[String]) -> bool {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap_or("unreadable"))
    };
    let origin = header(ORIGIN.as_str());
    if origin.is_some_and(|origin| trusted.iter().any(|trusted| trusted == origin)) {
        return true;
    }
    match header("sec-fetch-site") {
        Some(site) => matches!(site, "same-origin" | "none"),
        None => origin.is_none_or(|origin| {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some() && host == header(HOST.as_str())
        }),
    }
}
