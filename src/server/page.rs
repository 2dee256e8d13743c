//! The pages that handlers return, and the rendering of their documents.

use std::sync::Arc;

use axum::{
    extract::Extension,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_SECURITY_POLICY, RETRY_AFTER},
    },
    response::{Html, IntoResponse, Response},
};
use leptos::{
    nonce::{provide_nonce, use_nonce},
    prelude::*,
};
use tally_session::SessionError;

use super::headers;
use crate::{
    call_error::CallError,
    client_session::{ClientSession, SessionEvent},
    islands::{Notices, store::Store},
    layout::{AssetNames, Document},
    visitor::Session,
};

/// A rendered page, without the document around it.
///
/// As a response it only carries itself as an extension. [`Renderer`], which wraps the routes, renders the document.
#[derive(Clone, Debug)]
pub struct Page {
    title: &'static str,
    /// The session for the islands, or `None` if the handler has not loaded it.
    session: Option<SessionEvent>,
    /// The HTML of the page.
    body: String,
    /// The reactive owner, which holds the store of the islands. The document is rendered under the same owner.
    owner: Owner,
    status: StatusCode,
    /// The value of `Retry-After`, in seconds.
    retry_after: Option<u64>,
}

impl Page {
    /// Renders a page whose handler has loaded the session.
    pub fn new<V: IntoView + 'static>(
        title: &'static str,
        session: &Session,
        view: impl FnOnce() -> V,
    ) -> Self {
        let event = ClientSession::of(session).map_or(SessionEvent::Ended, |session| {
            SessionEvent::State(Box::new(session))
        });
        Self::of(title, StatusCode::OK, Some(event), view)
    }

    /// Renders a page with status 404, whose handler has not loaded the session.
    pub fn not_found<V: IntoView + 'static>(view: impl FnOnce() -> V) -> Self {
        let status = StatusCode::NOT_FOUND;
        Self::of("Page not found", status, None, view)
    }

    fn of<V: IntoView + 'static>(
        title: &'static str,
        status: StatusCode,
        session: Option<SessionEvent>,
        view: impl FnOnce() -> V,
    ) -> Self {
        let owner = Owner::new_root(None);
        let body = owner.with(|| {
            provide_context(Store::new(session.clone()));
            let page = view().into_view();
            view! { {page} <Notices/> }.to_html()
        });
        Self {
            title,
            session,
            body,
            owner,
            status,
            retry_after: None,
        }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        (self.status, Extension(self)).into_response()
    }
}

/// The error of a handler whose session can't be loaded or saved. As a response it is a page with the message.
#[derive(Debug)]
pub struct PageError(SessionError);

impl From<SessionError> for PageError {
    fn from(error: SessionError) -> Self {
        Self(error)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let error = CallError::of(&self.0);
        let page = Page::of("Please try again", self.0.status(), None, || {
            view! {
                <h1>"Please try again"</h1>
                <p class="notice trouble" role="alert">{error.to_string()}</p>
            }
        });
        Page {
            retry_after: self.0.retry_after(),
            ..page
        }
        .into_response()
    }
}

/// Renders the documents of pages.
#[derive(Debug)]
pub struct Renderer {
    /// Under `cargo leptos watch`, the options of the reload script.
    pub watched: Option<LeptosOptions>,
    pub assets: AssetNames,
}

impl Renderer {
    /// Returns a function that replaces a response that is a [`Page`] with its document.
    pub fn responds(self) -> impl Fn(Response) -> Response + Clone {
        let renderer = Arc::new(self);
        move |mut response| match response.extensions_mut().remove::<Page>() {
            Some(page) => renderer.document(page),
            None => response,
        }
    }

    fn document(&self, page: Page) -> Response {
        let (html, nonce) = page.owner.with(|| {
            provide_nonce();
            let (watched, assets) = (self.watched.clone(), self.assets);
            let document = view! {
                <Document title=page.title session=page.session body=page.body watched assets/>
            };
            (document.to_html(), use_nonce())
        });
        page.owner.unset_with_forced_cleanup();
        let mut headers = HeaderMap::new();
        let policy = nonce.and_then(|nonce| headers::page_policy(&nonce, self.watched.as_ref()));
        if let Some(policy) = policy {
            headers.insert(CONTENT_SECURITY_POLICY, policy);
        }
        if let Some(seconds) = page.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        (page.status, headers, Html(html)).into_response()
    }
}
