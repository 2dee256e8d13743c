//! What stands around the routes, inside of the session layer: the time limit, the documents of pages, the redirects of
//! forms.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tokio::time::timeout;
use tower::{Service, ServiceExt};

use super::{assets, forms, page::Renderer, site::panicked};

/// When clients shall come back to a handler that was too slow, in seconds.
const RETRY: u64 = 2;

/// Responds to requests that have a session. Clones share everything.
#[derive(Clone, Debug)]
pub struct Responder(Arc<Parts>);

/// What responding takes.
#[derive(Debug)]
pub struct Parts {
    /// How long a handler may take.
    pub limit: Duration,
    pub renderer: Renderer,
    /// The pages, the server functions, the files, the operator's console.
    pub routes: Router,
}

impl Responder {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The session layer must see a panic, and a handler that never ends, as the failed responses that they are.
    async fn respond(self, request: Request) -> Response {
        let is_form = forms::is_form(&request);
        let work = AssertUnwindSafe(timeout(self.0.limit, self.0.handle(request)));
        let response = match work.catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => too_slow(),
            Err(_) => panicked(),
        };
        if is_form {
            return forms::answer_form(response);
        }
        response
    }
}

impl Parts {
    async fn handle(&self, mut request: Request) -> Response {
        assets::lowercase_codings(request.headers_mut());
        let Ok(response) = self.routes.clone().oneshot(request).await;
        self.renderer.render(response)
    }
}

impl Service<Request> for Responder {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let responder = self.clone();
        Box::pin(async move { Ok(responder.respond(request).await) })
    }
}

/// The handler took too long; what it changed has been taken back.
fn too_slow() -> Response {
    (
        axum::http::StatusCode::SERVICE_UNAVAILABLE,
        [(RETRY_AFTER, HeaderValue::from(RETRY))],
        "This took too long, so nothing was changed. Please try again.\n",
    )
        .into_response()
}
