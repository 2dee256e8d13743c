//! The maintenance commands, which an operator or a timer runs.

use std::io::{self, IsTerminal, Write};

use super::{ServeError, console, runtime, settings::Settings};
use crate::visitor::Sessions;
use tally_session::{
    CookieSecure,
    store::{self, StoreUrl},
};

/// Creates or updates the database tables, if the engine has any.
///
/// # Errors
/// Returns an error if the store can't be reached.
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

/// Removes expired sessions and returns a message with their number.
///
/// # Errors
/// Returns an error if the store can't be reached or fails.
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

/// Creates a sign-in link for the console, or only its path and query if the settings don't have the site's address.
///
/// # Errors
/// Returns an error if there is no console, if the store can't be reached, or if it is in the memory of the server.
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

/// Rejects the memory engine, whose sessions no other process can reach.
fn refuse_memory(settings: &Settings) -> Result<(), ServeError> {
    if settings.store.url == StoreUrl::Memory {
        return Err(ServeError::OutOfReach);
    }
    Ok(())
}

/// Shows the progress if standard error is a terminal. The total is unknown.
fn show_progress(cleared: u64) {
    if io::stderr().is_terminal() {
        eprint!("\r{cleared} removed …");
        let _ = io::stderr().flush();
    }
}

/// Lists settings that are unsafe for production, one line each.
///
/// # Errors
/// Returns an error if the operating system can't create the threads of the runtime.
pub fn check_deploy(settings: &Settings) -> Result<Vec<String>, ServeError> {
    let mut problems = Vec::new();
    let mut require = |is_safe: bool, problem: &str| {
        if !is_safe {
            problems.push(problem.to_owned());
        }
    };
    require(
        settings.sessions.cookie_secure == CookieSecure::Always,
        "the session cookie is not Secure: set sessions.cookie_secure, or site.url to an https address",
    );
    require(
        !settings.address.ip().is_loopback(),
        "the server listens on a loopback address, which only this machine can reach: set LEPTOS_SITE_ADDR",
    );
    require(
        !settings.allowed_hosts.is_empty(),
        "requests for any host name are accepted: set security.allowed_hosts",
    );
    require(
        settings.hsts_age > 0,
        "browsers may use plain http: set security.hsts_age once https works",
    );
    let store = runtime()?.block_on(async {
        match store::open(&settings.store).await {
            Ok(store) => match store.diagnostics() {
                Some(diagnostics) => diagnostics.deploy_warnings().await.unwrap_or_else(|error| {
                    vec![format!("the session store can't be checked: {error}")]
                }),
                None => Vec::new(),
            },
            Err(error) => vec![error.to_string()],
        }
    });
    problems.extend(store);
    Ok(problems)
}
