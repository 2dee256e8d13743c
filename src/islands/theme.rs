//! The colours that the visitor chose: rendered by the server, so that no page flashes in others.
//! One field of the visitor, one method, one server function: the pattern for settings of your own.

use leptos::{prelude::*, server_fn::ServerFn};

use super::store::{SessionAction, store};
use crate::{
    browser::{client::FetchClient, json::Json},
    call_error::CallError,
    client_session::ClientSession,
    visitor::Theme,
};

/// Keeps the chosen colours in the session.
#[server(endpoint = "theme", client = FetchClient, output = Json)]
pub async fn choose_theme(theme: Theme) -> Result<Option<ClientSession>, CallError> {
    let change = move |visitor: &mut crate::visitor::Visitor| visitor.choose_theme(theme);
    crate::server::calls::update(change)
        .await
        .map(|((), session)| session)
}

/// The choice between light and dark.
#[island]
pub fn ThemeChoice() -> impl IntoView {
    let store = store();
    let chosen = Memo::new(move |_| store.view().map(|view| view.theme).unwrap_or_default());
    Effect::new(move |before: Option<()>| {
        let theme = chosen.get();
        // The server has rendered the first one.
        if before.is_some()
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
                "The colours were not kept.",
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
