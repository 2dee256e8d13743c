//! Turns a page's state into its document. What a page shows was loaded before, so it is rendered
//! in one go: whatever was written to the session is stored before the head of the answer goes out.

use axum::{
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

use super::{encoding, headers, pages::Loaded};
use crate::app::{AssetNames, PageState, shell};

/// What all documents share.
#[derive(Debug)]
pub struct Renderer {
    /// Under `cargo leptos watch`, what reloads the page.
    pub watched: Option<LeptosOptions>,
    pub assets: AssetNames,
}

impl Renderer {
    /// Answers with a page.
    pub fn answer(&self, loaded: Loaded) -> Response {
        let (html, nonce) = self.document(loaded.state);
        let mut headers = HeaderMap::new();
        let policy = nonce.and_then(|nonce| headers::page_policy(&nonce, self.watched.as_ref()));
        if let Some(policy) = policy {
            headers.insert(CONTENT_SECURITY_POLICY, policy);
        }
        if let Some(seconds) = loaded.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        (loaded.status, headers, Html(html)).into_response()
    }

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
