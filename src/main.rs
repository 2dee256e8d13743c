//! The command line: hands over to the server or to a maintenance command.

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

// Rendering allocates much, and the system's allocator is slower at it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Server-side sessions for Leptos, with nothing lost.
///
/// The settings are those of Leptos.toml. LEPTOS_SITE_ADDR (IP:port), SESSION_STORE (a URL) and further variables
/// override them; Leptos.toml names each.
#[derive(Debug, Parser)]
#[command(name = "tally", bin_name = "tally", version)]
struct Arguments {
    /// Read the settings from FILE instead of ./Leptos.toml
    #[arg(long, global = true, value_name = "FILE")]
    settings: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum Command {
    /// Serve the site (the default)
    ///
    /// SIGTERM and SIGINT let open requests finish.
    Serve,
    /// Create or update the sessions table, where the engine has one
    Migrate,
    /// Remove expired sessions, and print how many they were
    ///
    /// The server does so by itself, once a minute.
    #[command(name = "clearsessions")]
    ClearSessions,
    /// Print a link to the console's sign-in page that others can't hold up
    ///
    /// The link may be used once, within ten minutes. The password is still asked for.
    SignInLink,
    /// Ask for the console's password, and print the hash for console.password_hash
    HashPassword,
    /// List what is unsafe for production; exits with 1 if anything is
    Check {
        /// Look at everything that a deployment needs
        #[arg(long, required = true)]
        deploy: bool,
    },
    /// Print completions for a shell, to be read by its start-up file
    Completions { shell: Shell },
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
        Command::Check { .. } => {
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
