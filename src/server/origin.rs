//! Who may call: requests that change state must come from the site's own pages.

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

/// The browser's own word on where a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Lets a request pass that may. tower-http's CSRF layer knows neither hosts nor ids in a header.
pub async fn check<S: Inner>(settings: Arc<Settings>, request: Request, inner: S) -> Response {
    match refusal(&settings, &request) {
        Some(refusal) => refusal,
        None => inner.respond(request).await,
    }
}

/// The answer to a request that nothing else shall see: 421 where it is for another host than the
/// settings name, 403 where another site's page would change something. Trusted origins are trusted
/// with their visitors' sessions, not with the operator's.
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
            "This is not the site that you asked for.\n",
        )
    } else if changes(request)
        && !brings_id_by_header(settings, request)
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

/// Whether another site's page led here: an argument of a page's handler.
#[derive(Clone, Copy, Debug)]
pub struct FromElsewhere(pub bool);

impl<S: Send + Sync> FromRequest<S> for FromElsewhere {
    type Rejection = Infallible;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Infallible> {
        Ok(Self(is_linked_from_elsewhere(&request)))
    }
}

/// Whether another site's page led here. Old browsers, and all by plain http, say so by the Referer
/// alone, if at all.
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

/// Whether an origin is this host's. A scheme's own port is the same as none.
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

/// What can't be read equals nothing that is allowed.
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

/// The host that a visitor asked for, as a trusted proxy says, or the request itself. Who names two means to be seen as one by a proxy and as the
/// other by us.
fn host(request: &Request) -> Result<Option<&str>, &'static str> {
    let forwarded = request.extensions().get::<Forwarded>();
    if let Some(host) = forwarded.and_then(|forwarded| forwarded.host.as_deref()) {
        return Ok(Some(host));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let named = first.map(text);
    let in_address = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let agree = match (named, in_address) {
        (Some(named), Some(in_address)) => named.eq_ignore_ascii_case(in_address),
        _ => true,
    };
    if second.is_some() || !agree {
        return Err("This request names more than one host.\n");
    }
    if named.is_none() && request.version() == Version::HTTP_11 {
        return Err("This request names no host.\n");
    }
    Ok(named.or(in_address))
}

/// No host in the settings: any is allowed.
fn is_allowed_host(host: Option<&str>, allowed: &[String]) -> bool {
    let Some(host) = host else {
        return allowed.is_empty();
    };
    // The port goes, the brackets of an IPv6 address stay.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_name = |allowed: &String| allowed.eq_ignore_ascii_case(name);
    allowed.is_empty() || allowed.iter().any(is_name)
}

/// Whether the session comes by a header, which no other site's page can make a browser send.
fn brings_id_by_header(settings: &Settings, request: &Request) -> bool {
    match &settings.sessions.transport {
        Transport::Cookie => false,
        Transport::Header(name) | Transport::CookieOrHeader(name) => {
            request.headers().contains_key(name)
        }
    }
}

/// Programs that are no browsers send neither header and pass: they hold no visitor's cookie.
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
