//! The colour scheme, as an example of a preference: one field of the visitor, one method and one server function.
//!
//! The server renders the chosen scheme, so that a page never flashes in the wrong colours.

use leptos::{prelude::*, server_fn::ServerFn};

use super::store::{SessionAction, store};
use crate::{
    browser::{client::FetchClient, json::Json},
    call_error::CallError,
    client_session::ClientSession,
    visitor::Theme,
};

/// Saves the colour scheme in the session.
#[server(endpoint = "theme", client = FetchClient, output = Json)]
pub async fn choose_theme(theme: Theme) -> Result<Option<ClientSession>, CallError> {
    let change = move |visitor: &mut crate::visitor::Visitor| visitor.choose_theme(theme);
    crate::server::calls::update(change)
        .await
        .map(|((), session)| session)
}

/// The buttons that choose the colour scheme.
#[island]
pub fn ThemeChoice() -> impl IntoView {
    let store = store();
    let chosen = Memo::new(move |_| store.view().map(|view| view.theme).unwrap_or_default());
    Effect::new(move |previous: Option<()>| {
        let theme = chosen.get();
        // The server has already rendered the first value.
        if previous.is_some()
            && let Some(root) = document().document_element()
        {
            let _ = root.set_attribute("data-theme", theme.name());
        }
    });
    let button = move |theme: Theme, label: &'static str| {
        let choose = move || {
            SessionAction::new(
                move |view| view.theme = theme,
                move || choose_theme(theme),
                "The colours were not saved.",
            )
        };
        view! {
            <form method="post" action=ChooseTheme::PATH on:submit=store.on_submit(choose)>
                <input type="hidden" name="theme" value=theme.name()/>
                <button type="submit" aria-pressed=move || (chosen.get() == theme).to_string()>
                    {label}
                </button>
            </form>
        }
    };
    view! {
        <div class="themes" role="group" aria-label="Colours">
            {button(Theme::System, "System")}
            {button(Theme::Light, "Light")}
            {button(Theme::Dark, "Dark")}
        </div>
    }
}
