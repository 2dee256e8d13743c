//! The commands beside `serve`: what an operator runs by hand or by a timer.

use std::io::{self, IsTerminal, Write};

use super::{ServeError, console, runtime, settings::Settings};
use crate::visitor::Sessions;
use tally_session::{
    CookieSecure,
    store::{self, StoreUrl},
};

/// Creates or updates the sessions table, where the engine has one.
///
/// # Errors
/// When the store can't be reached.
pub fn migrate(settings: &Settings) -> Result<String, ServeError> {
    let url = &settings.store.url;
    let has_table = runtime()?.block_on(async {
        let store = store::open(&settings.store).await?;
        store.close().await;
        let diagnostics = store.diagnostics();
        Ok::<_, ServeError>(diagnostics.is_some_and(|diagnostics| diagnostics.has_table()))
    })?;
    Ok(if has_table {
        format!("the sessions table is up to date ({url})")
    } else {
        format!("nothing to do: this engine has no table ({url})")
    })
}

/// Removes expired sessions now, and says how many they were.
///
/// # Errors
/// When the store can't be reached or fails.
pub fn clear_sessions(settings: &Settings) -> Result<String, ServeError> {
    refuse_memory(settings)?;
    runtime()?.block_on(async {
        let store = store::open(&settings.store).await?;
        let sessions = Sessions::new(store, settings.sessions.clone())?;
        let cleared = sessions.clear_expired(show_progress).await?;
        sessions.close().await;
        if io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        Ok(format!("{cleared} expired sessions removed"))
    })
}

/// Makes a link to the console's sign-in page that nobody can hold up, for ten minutes; its path alone
/// where the settings don't say what the site's address is.
///
/// # Errors
/// Where there is no console, or its store can't be reached, or is inside of the server.
pub fn sign_in_link(settings: &Settings) -> Result<String, ServeError> {
    if settings.console.is_none() {
        return Err(ServeError::NoConsole);
    }
    refuse_memory(settings)?;
    runtime()?.block_on(async {
        let store = store::open(&settings.store).await?;
        let sessions = Sessions::new(store, settings.sessions.clone())?;
        let address = format!("{}{}", settings.site, console::PATH);
        let link = tally_console::sign_in_link(&sessions, &address).await?;
        sessions.close().await;
        Ok(link)
    })
}

/// What a server keeps in its memory no command reaches.
fn refuse_memory(settings: &Settings) -> Result<(), ServeError> {
    if settings.store.url == StoreUrl::Memory {
        return Err(ServeError::OutOfReach);
    }
    Ok(())
}

/// One line that counts up, on a terminal alone. The engine does not know how many there are.
fn show_progress(cleared: u64) {
    if io::stderr().is_terminal() {
        eprint!("\r{cleared} removed …");
        let _ = io::stderr().flush();
    }
}

/// What is unsafe for production, a line each; none: all is well.
///
/// # Errors
/// When the system gives no threads.
pub fn check_deploy(settings: &Settings) -> Result<Vec<String>, ServeError> {
    let mut problems = Vec::new();
    let mut unless = |fine: bool, problem: &str| {
        if !fine {
            problems.push(problem.to_owned());
        }
    };
    unless(
        settings.sessions.cookie_secure == CookieSecure::Always,
        "the session cookie is not Secure: set sessions.cookie_secure, or site.url to the https address",
    );
    unless(
        !settings.address.ip().is_loopback(),
        "the server listens on a loopback address, so only this machine reaches it: set LEPTOS_SITE_ADDR",
    );
    unless(
        !settings.allowed_hosts.is_empty(),
        "any host name is answered: set security.allowed_hosts",
    );
    unless(
        settings.hsts_age > 0,
        "browsers may come by plain http: set security.hsts_age once https works",
    );
    let store = runtime()?.block_on(async {
        match store::open(&settings.store).await {
            Ok(store) => match store.diagnostics() {
                Some(diagnostics) => diagnostics.deploy_warnings().await.unwrap_or_else(|error| {
                    vec![format!("the session store can't be asked: {error}")]
                }),
                None => Vec::new(),
            },
            Err(error) => vec![error.to_string()],
        }
    });
    problems.extend(store);
    Ok(problems)
}
