//! A page's state is read and changed once, before rendering starts: what a page writes to the
//! session must be stored before the head of the answer goes out, for cookies travel in it.

use axum::{extract::Request, http::Method, middleware::Next, response::Response};

use super::is_prefetch;
use crate::{
    app::PageState,
    session::{Session, SessionError},
};

/// A load of a page, and whether it may change the session.
#[derive(Clone, Copy)]
enum Load {
    Home { counts: bool },
    About { takes_mark: bool },
    Reset { resets: bool },
}

/// Finds the page's state and lays it into the request, from where rendering takes it.
pub async fn load_page(mut request: Request, next: Next) -> Response {
    let session = request.extensions().get::<Session>().cloned();
    if let (Some(load), Some(session)) = (load_of(&request), session) {
        let state = state(load, &session).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a page could not be loaded");
            PageState::Unavailable
        });
        request.extensions_mut().insert(state);
    }
    next.run(request).await
}

fn load_of(request: &Request) -> Option<Load> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let changes = request.method() == Method::GET && !is_prefetch(request);
    match request.uri().path() {
        "/" => Some(Load::Home { counts: changes }),
        "/about" => Some(Load::About {
            takes_mark: changes,
        }),
        "/reset" => Some(Load::Reset {
            resets: changes && !is_cross_site(request),
        }),
        _ => None,
    }
}

async fn state(load: Load, session: &Session) -> Result<PageState, SessionError> {
    let request = session.request();
    Ok(match load {
        Load::Home { counts: true } => PageState::Home {
            visits: session
                .update(move |visitor| visitor.load_home(request))
                .await?,
            ended: session.has_ended(),
        },
        Load::Home { counts: false } => PageState::Home {
            visits: session.read().await?.visits,
            ended: false,
        },
        Load::About { takes_mark: true } => PageState::About(
            session
                .update(move |visitor| visitor.take_test_mark(request))
                .await?,
        ),
        Load::About { takes_mark: false } => {
            PageState::About(session.read().await?.take_test_mark(request))
        }
        Load::Reset { resets: true } => {
            session.update(|visitor| visitor.reset()).await?;
            PageState::Reset { done: true }
        }
        Load::Reset { resets: false } => PageState::Reset { done: false },
    })
}

/// Another site's link must not reset a visitor's count: the page then asks.
fn is_cross_site(request: &Request) -> bool {
    request
        .headers()
        .get("sec-fetch-site")
        .is_some_and(|site| matches!(site.as_bytes(), b"cross-site" | b"same-site"))
}
