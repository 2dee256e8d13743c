//! `/`: counts a visit on each load and on each click.

use leptos::prelude::*;

#[cfg(feature = "ssr")]
use crate::islands::Counter;
#[cfg(feature = "ssr")]
use crate::server::page::{Page, PageError};
#[cfg(feature = "ssr")]
use crate::visitor::Session;
use crate::{
    browser::{client::FetchClient, json::Json},
    call_error::CallError,
    client_session::ClientSession,
};

/// The query of the page.
#[cfg(feature = "ssr")]
#[derive(Debug, serde::Deserialize)]
pub struct CounterQuery {
    /// Set by the redirect after a form without JavaScript, which has already counted.
    counted: Option<String>,
}

/// Renders the page. Counts a visit, unless a form has redirected here.
#[cfg(feature = "ssr")]
pub async fn page(
    session: Session,
    axum::extract::Query(query): axum::extract::Query<CounterQuery>,
) -> Result<Page, PageError> {
    if query.counted.is_none() {
        session.set_test_cookie();
        session.update(|visitor| visitor.visit()).await?;
    } else {
        session.read().await?;
    }
    let was_replaced = session.was_replaced();
    Ok(Page::new("Counter", &session, move || {
        view! { <CounterPage was_replaced/> }
    }))
}

/// Counts a visit.
#[server(endpoint = "visit", client = FetchClient, output = Json)]
pub async fn visit() -> Result<Option<ClientSession>, CallError> {
    tally_session::use_session::<crate::visitor::Visitor>()?.set_test_cookie();
    let counted = crate::server::calls::update(|visitor| visitor.visit()).await;
    counted.map(|(_, session)| session)
}

/// Sets the count to 0.
#[server(endpoint = "reset", client = FetchClient, output = Json)]
pub async fn reset() -> Result<Option<ClientSession>, CallError> {
    let reset = crate::server::calls::update(|visitor| visitor.reset()).await;
    reset.map(|(_, session)| session)
}

#[cfg(feature = "ssr")]
#[component]
fn CounterPage(
    /// Whether the session was deleted elsewhere during this request.
    was_replaced: bool,
) -> impl IntoView {
    view! {
        <h1>"Every visit counts"</h1>
        <Counter/>
        {was_replaced
            .then(|| view! { <p class="soft">"Your session ended elsewhere. This is a new one."</p> })}
    }
}
