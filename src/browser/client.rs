//! A client for server functions: it sends a form and receives JSON.
//!
//! server_fn's own client can also stream, upload files and open WebSockets. Every visitor would have to download that.

use bytes::Bytes;
use futures_util::{Sink, Stream, sink::Drain, stream::Empty};
use http::Method;
use leptos::{
    prelude::window,
    server_fn::{
        client::Client,
        error::{FromServerFnError, IntoAppError, ServerFnErrorErr},
        request::ClientReq,
        response::ClientRes,
    },
    task::spawn_local,
};
use send_wrapper::SendWrapper;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Headers, RequestInit, Response};

/// The timeout of a call, in milliseconds. Longer than the server's own request timeout.
const TIMEOUT: u32 = 20_000;

/// Calls server functions with `fetch`: `#[server(client = FetchClient)]`.
#[derive(Clone, Copy, Debug)]
pub struct FetchClient;

/// The request of a call.
#[derive(Debug)]
pub struct FetchRequest {
    path: String,
    content_type: String,
    accepts: String,
    body: String,
}

/// The response to a call.
#[derive(Debug)]
pub struct FetchResponse {
    status: u16,
    body: String,
}

fn unsupported<T, E: FromServerFnError>() -> Result<T, E> {
    let message = "this client only sends text".to_owned();
    Err(ServerFnErrorErr::UnsupportedRequestMethod(message).into_app_error())
}

impl<E, I, O> Client<E, I, O> for FetchClient
where
    E: FromServerFnError,
    I: FromServerFnError,
    O: FromServerFnError,
{
    type Request = FetchRequest;
    type Response = FetchResponse;

    fn send(request: FetchRequest) -> impl Future<Output = Result<FetchResponse, E>> + Send {
        SendWrapper::new(async move {
            let response = fetch(&request).await;
            response.map_err(|_| ServerFnErrorErr::Request(String::new()).into_app_error())
        })
    }

    async fn open_websocket(
        _path: &str,
    ) -> Result<
        (
            impl Stream<Item = Result<Bytes, Bytes>> + Send + 'static,
            impl Sink<Bytes> + Send + 'static,
        ),
        E,
    > {
        unsupported::<(Empty<_>, Drain<Bytes>), E>()
    }

    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        spawn_local(future);
    }
}

async fn fetch(request: &FetchRequest) -> Result<FetchResponse, JsValue> {
    let headers = Headers::new()?;
    headers.set("content-type", &request.content_type)?;
    headers.set("accept", &request.accepts)?;
    let options = RequestInit::new();
    options.set_method("POST");
    options.set_headers(&headers);
    options.set_body(&JsValue::from_str(&request.body));
    options.set_signal(Some(&AbortSignal::timeout_with_u32(TIMEOUT)));
    let fetching = window().fetch_with_str_and_init(&request.path, &options);
    let response: Response = JsFuture::from(fetching).await?.dyn_into()?;
    let body = JsFuture::from(response.text()?).await?;
    Ok(FetchResponse {
        status: response.status(),
        body: body.as_string().unwrap_or_default(),
    })
}

impl<E: FromServerFnError> ClientReq<E> for FetchRequest {
    type FormData = ();

    fn try_new_req_query(_: &str, _: &str, _: &str, _: &str, _: Method) -> Result<Self, E> {
        unsupported()
    }

    fn try_new_req_text(
        path: &str,
        content_type: &str,
        accepts: &str,
        body: String,
        _method: Method,
    ) -> Result<Self, E> {
        Ok(Self {
            path: path.to_owned(),
            content_type: content_type.to_owned(),
            accepts: accepts.to_owned(),
            body,
        })
    }

    fn try_new_req_bytes(_: &str, _: &str, _: &str, _: Bytes, _: Method) -> Result<Self, E> {
        unsupported()
    }

    fn try_new_req_form_data(_: &str, _: &str, _: &str, (): (), _: Method) -> Result<Self, E> {
        unsupported()
    }

    fn try_new_req_multipart(_: &str, _: &str, (): (), _: Method) -> Result<Self, E> {
        unsupported()
    }

    fn try_new_req_streaming(
        _: &str,
        _: &str,
        _: &str,
        _: impl Stream<Item = Bytes> + Send + 'static,
        _: Method,
    ) -> Result<Self, E> {
        unsupported()
    }
}

impl<E: FromServerFnError> ClientRes<E> for FetchResponse {
    async fn try_into_string(self) -> Result<String, E> {
        Ok(self.body)
    }

    async fn try_into_bytes(self) -> Result<Bytes, E> {
        Ok(self.body.into())
    }

    fn try_into_stream(
        self,
    ) -> Result<impl Stream<Item = Result<Bytes, Bytes>> + Send + Sync + 'static, E> {
        unsupported::<Empty<_>, E>()
    }

    fn status(&self) -> u16 {
        self.status
    }

    fn status_text(&self) -> String {
        String::new()
    }

    fn location(&self) -> String {
        String::new()
    }

    fn has_redirect(&self) -> bool {
        false
    }
}
