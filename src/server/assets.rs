//! Serves the site's files, which a release build embeds in the binary.
//!
//! Embedded files are compressed at build time. Those whose names have a hash are cached forever, the others have an
//! `ETag`. Debug builds read the files from disk, so that `cargo leptos watch` can reload them. So does a release build
//! that was compiled before the site (see build.rs).

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header::ACCEPT_ENCODING},
};
use memory_serve::CacheControl;

use crate::layout::AssetNames;

/// Converts `Accept-Encoding` to lower case. Content codings are case-insensitive, but memory-serve expects lower case.
pub fn lowercase_codings(mut request: Request) -> Request {
    if let Some(accepted) = request.headers_mut().get_mut(ACCEPT_ENCODING)
        && accepted.as_bytes().iter().any(u8::is_ascii_uppercase)
        && let Ok(lower) = HeaderValue::from_bytes(&accepted.as_bytes().to_ascii_lowercase())
    {
        *accepted = lower;
    }
    request
}

/// The routes of the files, and the URLs under which pages request them.
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
