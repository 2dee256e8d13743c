//! The way of a request, from the outside in.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header::CONTENT_LENGTH},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tower::ServiceExt;

use super::{forms, headers, origin, pages, settings::Settings};
use crate::session::{Sessions, layer};

/// Everything that answering takes. axum's layers would do the same; they clone all that is inside
/// of them for each request and each connection, which takes as long as rendering a page and costs
/// 40 KB a connection.
#[derive(Debug)]
pub struct Site {
    pub settings: Settings,
    pub sessions: Arc<Sessions>,
    /// Pages, server functions, files.
    pub routes: Router,
}

impl Site {
    /// Answers a request. Every answer, errors too, leaves here with the security headers.
    pub async fn answer(self: Arc<Self>, request: Request) -> Response {
        let hsts_age = self.settings.hsts_age;
        let limit = Duration::from_secs(self.settings.request_timeout);
        let answer = AssertUnwindSafe(self.within_limits(request)).catch_unwind();
        let mut response = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => panicked(),
            Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
        };
        headers::secure(&mut response, hsts_age);
        response
    }

    async fn within_limits(self: Arc<Self>, request: Request) -> Response {
        if announced(&request) > self.settings.body_limit {
            return StatusCode::PAYLOAD_TOO_LARGE.into_response();
        }
        if let Some(refusal) = origin::refusal(&self.settings, &request) {
            return refusal;
        }
        self.with_session(request).await
    }

    async fn with_session(self: Arc<Self>, mut request: Request) -> Response {
        let session = layer::begin(&self.sessions, &mut request);
        let is_form = forms::is_form(&request);
        let work = async {
            pages::load_page(&mut request, &session).await;
            let Ok(response) = self.routes.clone().oneshot(request).await;
            response
        };
        // The session must see a panic as the failed answer that it is.
        let response = AssertUnwindSafe(work).catch_unwind().await;
        let response = response.unwrap_or_else(|_| panicked());
        let response = if is_form {
            forms::answer_form(response)
        } else {
            response
        };
        layer::end(session, response).await
    }
}

/// The bytes of body that the request's head announces; one that announces none is cut at the limit.
fn announced(request: &Request) -> usize {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(0)
}

/// The panic itself has been logged by its hook.
fn panicked() -> Response {
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "Something went wrong here. Nothing was changed.\n",
    )
        .into_response()
}
