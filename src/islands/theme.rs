//! The colours that the visitor chose: rendered by the server, so that no page flashes in others.
//! One field of the visitor, one method, one server function: the pattern for settings of your own.

use leptos::{ev::SubmitEvent, prelude::*};

use super::{
    CallError,
    orders::{Order, Orders},
};
use crate::visitor::Theme;

/// Keeps the chosen colours in the session.
#[server(endpoint = "theme")]
pub async fn choose_theme(theme: Theme) -> Result<(), CallError> {
    crate::server::forms::update(move |visitor| visitor.choose_theme(theme)).await
}

/// The choice between light and dark.
#[component]
pub fn ThemeChoice() -> impl IntoView {
    let orders = expect_context::<Orders>();
    let chosen = Memo::new(move |_| orders.shown().map(|shown| shown.theme).unwrap_or_default());
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
        let choose = move |event: SubmitEvent| {
            event.prevent_default();
            orders.order(Order::ChooseTheme(theme));
        };
        view! {
            <form method="post" action="/api/theme" on:submit=choose>
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
