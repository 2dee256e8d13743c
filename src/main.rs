//! The command line: hands over to the server or to a maintenance command.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use axum::Router;
use mimalloc::MiMalloc;
use tally::server::{self, ServeError, maintenance, settings::Settings};

// Rendering allocates much, and the system's allocator is slower at it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const HELP: &str = "\
Tally: server-side sessions for Leptos, with nothing lost

Usage: tally [COMMAND] [--settings FILE]

Commands:
  serve           serve the site (the default)
  migrate         create or update the sessions table, where the engine has one
  clearsessions   remove expired sessions, and print how many they were
  sign-in-link    print a link to the console's sign-in page that others can't hold up
  hash-password   ask for the console's password, and print the hash for console.password_hash
  check --deploy  list what is unsafe for production; exits with 1 if anything is

Options:
  --settings FILE  read the settings from FILE instead of ./Leptos.toml
  --help           print this
  --version        print the version

LEPTOS_SITE_ADDR (IP:port) and SESSION_STORE (a URL) override the settings; Leptos.toml names every variable.
";

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Serve,
    Migrate,
    ClearSessions,
    CheckDeploy,
    SignInLink,
    HashPassword,
    Help,
    Version,
}

/// The command, and the settings file where one is named.
fn command(
    mut arguments: impl Iterator<Item = String>,
) -> Result<(Command, Option<PathBuf>), String> {
    let mut command = None;
    let mut settings = None;
    while let Some(argument) = arguments.next() {
        let named = match argument.as_str() {
            "serve" => Command::Serve,
            "migrate" => Command::Migrate,
            "clearsessions" => Command::ClearSessions,
            "sign-in-link" => Command::SignInLink,
            "hash-password" => Command::HashPassword,
            "check" => match arguments.next().as_deref() {
                Some("--deploy") => Command::CheckDeploy,
                _ => return Err("check needs --deploy; see tally --help".to_owned()),
            },
            "--help" | "-h" => Command::Help,
            "--version" | "-V" => Command::Version,
            "--settings" => {
                let file = arguments.next().ok_or("--settings needs a file")?;
                settings = Some(PathBuf::from(file));
                continue;
            }
            other => return Err(format!("unknown argument {other:?}; see tally --help")),
        };
        if command.replace(named).is_some() {
            return Err("one command at a time; see tally --help".to_owned());
        }
    }
    Ok((command.unwrap_or(Command::Serve), settings))
}

/// Runs a command and returns how it ends.
fn run(command: Command, file: Option<&Path>) -> Result<ExitCode, String> {
    let settings = || Settings::read(file).map_err(|error| error.to_string());
    let line = |error: ServeError| error.to_string();
    match command {
        Command::Serve => server::serve(settings()?, Router::new()).map_err(line)?,
        Command::Migrate => println!("{}", maintenance::migrate(&settings()?).map_err(line)?),
        Command::ClearSessions => {
            println!(
                "{}",
                maintenance::clear_sessions(&settings()?).map_err(line)?
            );
        }
        Command::CheckDeploy => {
            let problems = maintenance::check_deploy(&settings()?).map_err(line)?;
            for problem in &problems {
                println!("- {problem}");
            }
            if !problems.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
            println!("nothing found that is unsafe for production");
        }
        Command::SignInLink => {
            println!("{}", maintenance::sign_in_link(&settings()?).map_err(line)?);
        }
        Command::HashPassword => {
            let hash = tally_console::ask_and_hash().map_err(|error| error.to_string())?;
            println!("{hash}");
        }
        Command::Help => print!("{HELP}"),
        Command::Version => println!("tally {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let (command, file) = match command(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(usage) => {
            eprintln!("tally: {usage}");
            return ExitCode::from(2);
        }
    };
    run(command, file.as_deref()).unwrap_or_else(|error| {
        eprintln!("tally: {error}");
        ExitCode::FAILURE
    })
}
