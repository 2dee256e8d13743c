//! The site inside the binary: compressed when it was built, hashed names that never change,
//! ETags for the rest. Debug builds read it from disk, so that `watch` can reload it.

use axum::Router;
use memory_serve::CacheControl;

use crate::app::AssetNames;

/// The routes of the embedded files, and the names under which the page asks for them.
pub fn routes() -> (Router, AssetNames) {
    let hashed = !cfg!(debug_assertions);
    let site = memory_serve::load!()
        .index_file(None)
        .cache_control(CacheControl::NoCache)
        .html_cache_control(CacheControl::NoCache)
        .enable_hashed_routes(hashed);
    let manifest = site.manifest();
    let name = |plain: &str| manifest.get(plain).unwrap_or(plain).to_owned();
    let names = AssetNames {
        style: name("/pkg/tally.css"),
        script: name("/pkg/tally.js"),
        wasm: name("/pkg/tally.wasm"),
        icon: name("/icon.svg"),
    };
    (site.into_router(), names)
}
