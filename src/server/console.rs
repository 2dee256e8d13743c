//! The admin console of this app, at [`PATH`].

use axum::{Router, response::Redirect, routing::any};
use tally_console::{ColorScheme, Console, PasswordHash};
use tally_session::auth::Limits;

use super::settings::Settings;
use crate::{
    layout::AssetNames,
    visitor::{Sessions, Theme},
};

/// The path of the console.
pub const PATH: &str = "/admin";

/// The settings of the console.
#[derive(Clone, Debug)]
pub struct ConsoleSettings {
    pub password: PasswordHash,
    pub limits: Limits,
}

/// Whether a path belongs to the console.
pub fn is_path(path: &str) -> bool {
    path.strip_prefix(PATH)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The routes of the console, or an empty router if the settings have no password hash.
pub fn routes(settings: &Settings, sessions: &Sessions, assets: &AssetNames) -> Router {
    let Some(console) = &settings.console else {
        return Router::new();
    };
    let console = Console::new(sessions, console.password.clone())
        .with_limits(console.limits)
        .with_title("Tally console")
        .with_store_name(settings.store.url.to_string())
        .with_icon(assets.icon)
        .with_color_scheme(|visitor| match visitor.theme {
            Theme::System => ColorScheme::System,
            Theme::Light => ColorScheme::Light,
            Theme::Dark => ColorScheme::Dark,
        })
        .with_column("Visits", |visitor| visitor.visits.to_string());
    Router::new()
        .nest(PATH, console.router())
        .route("/admin/", any(|| async { Redirect::permanent(PATH) }))
}
