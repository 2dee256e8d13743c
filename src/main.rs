//! The command line of the server and its maintenance commands.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use axum::Router;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::{Shell, generate};
use mimalloc::MiMalloc;
use tally::server::{self, ServeError, maintenance, settings::Settings};

// Rendering allocates a lot, and mimalloc is faster at it than the system allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Server-side sessions for Leptos, with nothing lost.
///
/// Settings are read from Leptos.toml. Environment variables such as LEPTOS_SITE_ADDR (IP:port) and SESSION_STORE (a
/// URL) override them. Leptos.toml lists every variable.
#[derive(Debug, Parser)]
#[command(name = "tally", bin_name = "tally", version)]
struct Arguments {
    /// Read the settings from FILE instead of ./Leptos.toml
    #[arg(long, global = true, value_name = "FILE")]
    settings: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// The commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum Command {
    /// Serve the site (the default)
    ///
    /// On SIGTERM or SIGINT the server finishes open requests and exits.
    Serve,
    /// Create or update the database tables, if the engine has any
    Migrate,
    /// Remove expired sessions and print their number
    ///
    /// The server also does this once a minute.
    #[command(name = "clearsessions")]
    ClearSessions,
    /// Print a link that lets you sign in to the console while others exhaust its rate limit
    ///
    /// The link works once, within ten minutes. The password is still required.
    SignInLink,
    /// Ask for a password and print its hash, for console.password_hash
    HashPassword,
    /// List settings that are unsafe for production; exit with 1 if there are any
    Check {
        /// Check everything that a deployment needs
        #[arg(long, required = true)]
        deploy: bool,
    },
    /// Print a completion script for a shell
    Completions { shell: Shell },
}

/// Runs a command and returns its exit code.
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
        Command::Check { .. } => {
            let problems = maintenance::check_deploy(&settings()?).map_err(line)?;
            for problem in &problems {
                println!("- {problem}");
            }
            if !problems.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
            println!("no problems found");
        }
        Command::SignInLink => {
            println!("{}", maintenance::sign_in_link(&settings()?).map_err(line)?);
        }
        Command::HashPassword => {
            let hash = tally_console::prompt_and_hash().map_err(|error| error.to_string())?;
            println!("{hash}");
        }
        Command::Completions { shell } => {
            generate(shell, &mut Arguments::command(), "tally", &mut io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let Arguments { settings, command } = Arguments::parse();
    let command = command.unwrap_or(Command::Serve);
    run(command, settings.as_deref()).unwrap_or_else(|error| {
        eprintln!("tally: {error}");
        ExitCode::FAILURE
    })
}
