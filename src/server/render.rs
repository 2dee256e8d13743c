//! Turns a page's state into its document. What a page shows was loaded before, so it is rendered
//! in one go: whatever was written to the session is stored before the head of the answer goes out.

use axum::{
    http::{
        HeaderMap, HeaderValue, StatusCode,
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
        let policy = nonce.and_then(|nonce| headers::page_policy(&nonce, self.watched.as_ref()));
        document(loaded.status, loaded.retry_after, policy, html)
    }

    /// The document, and the nonce that its one script carries.
    fn document(&self, state: PageState) -> (String, Option<Nonce>) {
        let sent = encoding::form(|write| state.write(write));
        owned(|| {
            provide_nonce();
            let document = shell(self.watched.clone(), &self.assets, state, sent);
            (document.to_html(), use_nonce())
        })
    }
}

/// Does what renders views, and forgets what they leave behind.
pub fn owned<T>(render: impl FnOnce() -> T) -> T {
    let owner = Owner::new_root(None);
    let rendered = owner.with(render);
    owner.unset_with_forced_cleanup();
    rendered
}

/// Answers with a document, its content policy, and the seconds after which another try is worth it.
pub fn document(
    status: StatusCode,
    retry_after: Option<u64>,
    policy: Option<HeaderValue>,
    html: String,
) -> Response {
    let mut headers = HeaderMap::new();
    if let Some(policy) = policy {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    (status, headers, Html(html)).into_response()
}
