//! Middleware from async functions, as axum's `from_fn` makes it, without its boxes.
//!
//! `from_fn` boxes the service inside and its own future for each request. With four of them a server function took
//! 5 % more of the processor.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum::{extract::Request, response::Response};
use futures_util::{FutureExt, future::Map};
use tower::{Layer, Service, ServiceExt};

/// A layer that responds as `run` does, whose arguments are `state`, the request, and the service inside.
pub fn middleware<T, F>(state: T, run: F) -> MiddlewareLayer<T, F> {
    MiddlewareLayer { state, run }
}

/// See [`middleware`].
#[derive(Clone, Copy, Debug)]
pub struct MiddlewareLayer<T, F> {
    state: T,
    run: F,
}

/// The service that a [`MiddlewareLayer`] makes of another one.
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

/// The service inside of a middleware.
pub trait Inner:
    Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send
{
    /// The response of the service.
    fn respond(self, request: Request) -> impl Future<Output = Response> + Send {
        let responding = self.oneshot(request);
        responding.map(|response| response.unwrap_or_else(|never| match never {}))
    }
}

impl<S> Inner for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send
{
}
