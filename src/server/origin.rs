//! Who may call: requests that change state must come from the site's own pages.

use axum::{
    extract::Request,
    http::{
        Method, StatusCode,
        header::{HOST, ORIGIN, UPGRADE},
    },
    response::{IntoResponse, Response},
};

use super::settings::Settings;

/// The answer to a request that nothing else shall see: 421 where it is for another host than the
/// settings name, 403 where another site's page would change something.
pub fn refusal(settings: &Settings, request: &Request) -> Option<Response> {
    let (status, why) = if !is_allowed_host(request, &settings.allowed_hosts) {
        (
            StatusCode::MISDIRECTED_REQUEST,
            "This is not the site that you asked for.\n",
        )
    } else if changes(request) && !is_own(request, &settings.trusted_origins) {
        (
            StatusCode::FORBIDDEN,
            "This request came from another site, so nothing was changed.\n",
        )
    } else {
        return None;
    };
    Some((status, why).into_response())
}

fn changes(request: &Request) -> bool {
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    !reads || request.headers().contains_key(UPGRADE)
}

/// No host in the settings: any is allowed.
fn is_allowed_host(request: &Request, allowed: &[String]) -> bool {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let name = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
    allowed.is_empty() || name.is_some_and(|name| allowed.iter().any(|allowed| allowed == name))
}

/// Programs that are no browsers send neither header and pass: they hold no visitor's cookie.
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
