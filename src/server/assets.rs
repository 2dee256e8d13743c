//! The site inside the binary: compressed when it was built, hashed names that never change,
//! ETags for the rest. Debug builds read it from disk, so that `watch` can reload it; so does a release that
//! was compiled before there was a site (see build.rs).

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header::ACCEPT_ENCODING},
};
use memory_serve::CacheControl;

use crate::layout::AssetNames;

/// Names of content codings mean the same in any case; what serves the files knows them in lower case.
pub fn lowercase_codings(mut request: Request) -> Request {
    if let Some(accepted) = request.headers_mut().get_mut(ACCEPT_ENCODING)
        && accepted.as_bytes().iter().any(u8::is_ascii_uppercase)
        && let Ok(lower) = HeaderValue::from_bytes(&accepted.as_bytes().to_ascii_lowercase())
    {
        *accepted = lower;
    }
    request
}

/// The routes of the embedded files, and the names under which the page asks for them.
pub fn routes() -> (Router, AssetNames) {
    let hashed = cfg!(site_embedded);
    let site = memory_serve::load!()
        .index_file(None)
        .cache_control(CacheControl::NoCache)
        .html_cache_control(CacheControl::NoCache)
        .enable_hashed_routes(hashed);
    let manifest = site.manifest();
    let name = |plain: &str| manifest.get(plain).unwrap_or(plain).to_owned();
    let names = AssetNames::new(name);
    (site.into_router(), names)
}
