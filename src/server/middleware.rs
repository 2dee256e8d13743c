//! Middleware from async functions, like axum's `from_fn` but without boxing.
//!
//! `from_fn` boxes the inner service and its own future for each request. Four such layers increased the CPU time of a
//! server function by 5 %.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum::{extract::Request, response::Response};
use futures_util::{FutureExt, future::Map};
use tower::{Layer, Service, ServiceExt};

/// Creates a layer from a function that takes `state`, the request and the inner service, and returns the response.
pub fn middleware<T, F>(state: T, run: F) -> MiddlewareLayer<T, F> {
    MiddlewareLayer { state, run }
}

/// The layer that [`middleware`] creates.
#[derive(Clone, Copy, Debug)]
pub struct MiddlewareLayer<T, F> {
    state: T,
    run: F,
}

/// The service that a [`MiddlewareLayer`] creates.
#[derive(Clone, Copy, Debug)]
pub struct Middleware<T, F, S> {
    layer: MiddlewareLayer<T, F>,
    inner: S,
}

impl<T: Clone, F: Clone, S> Layer<S> for MiddlewareLayer<T, F> {
    type Service = Middleware<T, F, S>;

    fn layer(&self, inner: S) -> Self::Service {
        let layer = self.clone();
        Middleware { layer, inner }
    }
}

impl<T, F, S, R> Service<Request> for Middleware<T, F, S>
where
    T: Clone,
    F: Fn(T, Request, S) -> R,
    S: Clone,
    R: Future<Output = Response>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Map<R, fn(Response) -> Result<Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { layer, inner } = self;
        (layer.run)(layer.state.clone(), request, inner.clone()).map(Ok)
    }
}

/// The inner service of a middleware.
pub trait Inner:
    Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send
{
    /// Calls the service, which is always ready and never fails.
    fn respond(self, request: Request) -> impl Future<Output = Response> + Send {
        let responding = self.oneshot(request);
        responding.map(|response| response.unwrap_or_else(|never| match never {}))
    }
}

impl<S> Inner for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send
{
}
