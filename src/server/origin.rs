//! Protection against cross-site request forgery, and a check of the host name.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::{FromRequest, Request},
    http::{
        HeaderName, HeaderValue, Method, StatusCode, Version,
        header::{HOST, ORIGIN, REFERER, UPGRADE},
    },
    response::{IntoResponse, Response},
};

use super::{address::Forwarded, console, health, middleware::Inner, settings::Settings};
use tally_session::Transport;

/// The header in which a browser states the relation between the initiator of a request and this site.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Rejects requests for other hosts, and requests that change state but come from another site.
///
/// tower-http's CSRF layer checks no hosts, and does not support session ids in a header.
pub async fn check<S: Inner>(settings: Arc<Settings>, request: Request, inner: S) -> Response {
    match refusal(&settings, &request) {
        Some(refusal) => refusal,
        None => inner.respond(request).await,
    }
}

/// The response to a request that must not be handled, or `None` if it may be.
///
/// The status is 400 if the host is missing or ambiguous, 421 if the settings don't allow the host, and 403 if a page
/// of another site would change state. Trusted origins may change the sessions of visitors, but not use the console.
fn refusal(settings: &Settings, request: &Request) -> Option<Response> {
    let host = match host(request) {
        Ok(host) => host,
        Err(why) => return Some((StatusCode::BAD_REQUEST, why).into_response()),
    };
    let trusted = if console::is_path(request.uri().path()) {
        &[]
    } else {
        settings.trusted_origins.as_slice()
    };
    let (status, why) = if !health::is_probe(request.uri().path())
        && !is_allowed_host(host, &settings.allowed_hosts)
    {
        (
            StatusCode::MISDIRECTED_REQUEST,
            "This server does not serve the requested host.\n",
        )
    } else if changes(request)
        && !has_id_in_header(settings, request)
        && !is_own(request, host, trusted)
    {
        (
            StatusCode::FORBIDDEN,
            "This request came from another site, so nothing was changed.\n",
        )
    } else {
        return None;
    };
    Some((status, why).into_response())
}

/// An extractor that tells whether a page of another site has led here.
#[derive(Clone, Copy, Debug)]
pub struct CrossSite(pub bool);

impl<S: Send + Sync> FromRequest<S> for CrossSite {
    type Rejection = Infallible;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Infallible> {
        Ok(Self(is_linked_from_elsewhere(&request)))
    }
}

/// Whether a page of another site has led here.
///
/// Old browsers, and all browsers on plain http, send at most a `Referer`.
fn is_linked_from_elsewhere(request: &Request) -> bool {
    if let Some(site) = header(request, &SEC_FETCH_SITE) {
        return matches!(site, "cross-site" | "same-site");
    }
    let Some(referer) = header(request, &REFERER) else {
        return false;
    };
    let (scheme, rest) = referer.split_once("://").unwrap_or_default();
    let from = rest.split(['/', '?', '#']).next().unwrap_or_default();
    !is_at(&format!("{scheme}://{from}"), host(request).ok().flatten())
}

/// Whether an origin has this host. The default port of the scheme may be omitted.
fn is_at(origin: &str, host: Option<&str>) -> bool {
    let Some((scheme, from)) = origin.split_once("://") else {
        return false;
    };
    let port = if scheme.eq_ignore_ascii_case("https") {
        ":443"
    } else {
        ":80"
    };
    let bare = |host: &str| host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase();
    host.is_some_and(|host| bare(host) == bare(from))
}

fn header<'a>(request: &'a Request, name: &HeaderName) -> Option<&'a str> {
    request.headers().get(name).map(text)
}

/// The text of a header. An unreadable value becomes a text that matches no allowed value.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("unreadable")
}

fn changes(request: &Request) -> bool {
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    !reads || request.headers().contains_key(UPGRADE)
}

/// The requested host, from a trusted proxy or from the request itself.
///
/// A request with two different hosts is rejected, because a proxy might see one of them and this server the other.
fn host(request: &Request) -> Result<Option<&str>, &'static str> {
    let forwarded = request.extensions().get::<Forwarded>();
    if let Some(host) = forwarded.and_then(|forwarded| forwarded.host.as_deref()) {
        return Ok(Some(host));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let host_header = first.map(text);
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let agree = match (host_header, authority) {
        (Some(host), Some(authority)) => host.eq_ignore_ascii_case(authority),
        _ => true,
    };
    if second.is_some() || !agree {
        return Err("The request has more than one host.\n");
    }
    if host_header.is_none() && request.version() == Version::HTTP_11 {
        return Err("The request has no host.\n");
    }
    Ok(host_header.or(authority))
}

/// Whether the settings allow a host. An empty list allows any.
fn is_allowed_host(host: Option<&str>, allowed: &[String]) -> bool {
    let Some(host) = host else {
        return allowed.is_empty();
    };
    // Remove the port, but keep the brackets of an IPv6 address.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_name = |allowed: &String| allowed.eq_ignore_ascii_case(name);
    allowed.is_empty() || allowed.iter().any(is_name)
}

/// Whether the request has the session id in a header, which a page of another site can't make a browser send.
fn has_id_in_header(settings: &Settings, request: &Request) -> bool {
    match &settings.sessions.transport {
        Transport::Cookie => false,
        Transport::Header(name) | Transport::CookieOrHeader(name) => {
            request.headers().contains_key(name)
        }
    }
}

/// Whether the request comes from this site or from a trusted origin.
///
/// Clients other than browsers send neither header and pass, because they have no visitor's cookies.
fn is_own(request: &Request, host: Option<&str>, trusted: &[String]) -> bool {
    let origin = header(request, &ORIGIN);
    if origin.is_some_and(|origin| trusted.iter().any(|trusted| trusted == origin)) {
        return true;
    }
    match header(request, &SEC_FETCH_SITE) {
        Some(site) => matches!(site, "same-origin" | "none"),
        None => origin.is_none_or(|origin| is_at(origin, host)),
    }
}
