//! A page's state is read and changed once, before rendering starts: what a page writes to the
//! session must be stored before the head of the answer goes out, for cookies travel in it.

use axum::{
    extract::Request,
    http::{Method, StatusCode},
};

use super::{is_prefetch, origin};
use crate::{
    app::{Page, PageState, router::Route},
    snapshot::Snapshot,
    visitor::{Session, Visitor},
};
use tally_session::SessionError;

/// A load of a page, and whether it may change the session.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    Home { counts: bool },
    About { takes_mark: bool },
    Reset { resets: bool },
}

impl Load {
    /// The load of a page that a request asks for. `None`: it asks for none.
    pub fn of(request: &Request) -> Option<Self> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let changes = request.method() == Method::GET && !is_prefetch(request);
        match Route::of(request.uri().path()) {
            Route::Home => Some(Self::Home { counts: changes }),
            Route::About => Some(Self::About {
                takes_mark: changes,
            }),
            Route::Reset => Some(Self::Reset {
                // Another site's link must not reset a visitor's count: the page then asks.
                resets: changes && !origin::is_linked_from_elsewhere(request),
            }),
            Route::NotFound => None,
        }
    }

    fn route(self) -> Route {
        match self {
            Self::Home { .. } => Route::Home,
            Self::About { .. } => Route::About,
            Self::Reset { .. } => Route::Reset,
        }
    }
}

/// A page that is ready to be rendered.
#[derive(Debug)]
pub struct Loaded {
    pub state: PageState,
    pub status: StatusCode,
    /// After so many seconds another try is worth it.
    pub retry_after: Option<u64>,
}

impl Loaded {
    /// Nothing is at the address.
    pub const NOT_FOUND: Self = Self {
        state: PageState::PLAIN,
        status: StatusCode::NOT_FOUND,
        retry_after: None,
    };
}

/// Finds the page's state.
pub async fn load(load: Load, session: &Session) -> Loaded {
    match state(load, session).await {
        Ok(state) => Loaded {
            state,
            status: StatusCode::OK,
            retry_after: None,
        },
        Err(error) => failed(load, &error),
    }
}

fn failed(load: Load, error: &SessionError) -> Loaded {
    let page = match error {
        SessionError::RateLimited { .. } => Page::Crowded,
        _ => Page::Unavailable,
    };
    Loaded {
        state: PageState {
            route: load.route(),
            page,
            snapshot: None,
        },
        status: error.status(),
        retry_after: error.retry_after(),
    }
}

/// What `/about` shows; takes the mark of the cookie test.
///
/// # Errors
/// As [`Session::update`].
pub async fn about(session: &Session) -> Result<PageState, SessionError> {
    state(Load::About { takes_mark: true }, session).await
}

async fn state(load: Load, session: &Session) -> Result<PageState, SessionError> {
    let page = page(load, session).await?;
    Ok(PageState {
        route: load.route(),
        page,
        snapshot: session.snapshot().as_ref().map(Snapshot::from),
    })
}

async fn page(load: Load, session: &Session) -> Result<Page, SessionError> {
    Ok(match load {
        Load::Home { counts: true } => {
            session.set_test_cookie();
            session.update(Visitor::load_home).await?;
            Page::Home {
                ended: session.was_replaced(),
            }
        }
        Load::Home { counts: false } => {
            session.read().await?;
            Page::Home { ended: false }
        }
        Load::About { takes_mark: true } => Page::About {
            worked: take_test_cookie(session).await?,
        },
        Load::About { takes_mark: false } => Page::About {
            worked: session.test_cookie_worked().await?,
        },
        Load::Reset { resets: true } => {
            session.update(|visitor| visitor.reset()).await?;
            Page::Reset { done: true }
        }
        Load::Reset { resets: false } => {
            session.read().await?;
            Page::Reset { done: false }
        }
    })
}

/// Whether the cookie of an earlier visit has come back. That counts once: the mark goes.
async fn take_test_cookie(session: &Session) -> Result<bool, SessionError> {
    let worked = session.test_cookie_worked().await?;
    if worked {
        session.delete_test_cookie();
        // Saved now, so that the page is as new as the session.
        session.update(|_| ()).await?;
    }
    Ok(worked)
}
