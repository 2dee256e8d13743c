//! Turns a page's state into its document. What a page shows was loaded before, so it is rendered
//! in one go: whatever was written to the session is stored before the head of the answer goes out.

use axum::{
    Extension,
    extract::State,
    http::{
        HeaderMap, HeaderValue,
        header::{CONTENT_SECURITY_POLICY, RETRY_AFTER},
    },
    response::{Html, IntoResponse, Response},
};
use leptos::{
    nonce::{Nonce, provide_nonce, use_nonce},
    prelude::*,
};
use std::sync::Arc;

use super::{encoding, headers, pages::Loaded};
use crate::app::{AssetNames, PageState, shell};

/// What all documents share.
#[derive(Debug)]
pub struct Renderer {
    /// Under `cargo leptos watch`, what reloads the page.
    pub watched: Option<LeptosOptions>,
    pub assets: AssetNames,
}

/// Answers with the page whose state the request carries; without one, nothing is at its address.
pub async fn page(
    State(renderer): State<Arc<Renderer>>,
    loaded: Option<Extension<Loaded>>,
) -> Response {
    let loaded = loaded.map_or(Loaded::NOT_FOUND, |Extension(loaded)| loaded);
    let (html, nonce) = renderer.document(loaded.state);
    let mut headers = HeaderMap::new();
    if let Some(policy) =
        nonce.and_then(|nonce| headers::page_policy(&nonce, renderer.watched.as_ref()))
    {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    if let Some(seconds) = loaded.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    (loaded.status, headers, Html(html)).into_response()
}

impl Renderer {
    /// The document, and the nonce that its one script carries.
    fn document(&self, state: PageState) -> (String, Option<Nonce>) {
        let owner = Owner::new_root(None);
        let sent = encoding::form(|write| state.write(write));
        let rendered = owner.with(|| {
            provide_nonce();
            let document = shell(self.watched.clone(), &self.assets, state, sent);
            (document.to_html(), use_nonce())
        });
        owner.unset_with_forced_cleanup();
        rendered
    }
}
