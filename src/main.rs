//! The command line: hands over to the server.

use std::{path::PathBuf, process::ExitCode};

use mimalloc::MiMalloc;
use tally::server::{self, settings::Settings};

// Rendering allocates much: half again as many pages a second as with the system's allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const HELP: &str = "\
Tally: server-side sessions for Leptos, with nothing lost

Usage: tally [COMMAND] [--settings FILE]

Commands:
  serve      serve the site (the default)

Options:
  --settings FILE  read the settings from FILE instead of ./Leptos.toml
  --help           print this
  --version        print the version

LEPTOS_SITE_ADDR (IP:port) and SESSION_STORE (a URL) override the settings; Leptos.toml names every variable.
";

/// What the command line asks for.
enum Command {
    Serve { settings: Option<PathBuf> },
    Help,
    Version,
}

fn command(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut settings = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "serve" => {}
            "--settings" => {
                let file = arguments.next().ok_or("--settings needs a file")?;
                settings = Some(PathBuf::from(file));
            }
            "--help" | "-h" => return Ok(Command::Help),
            "--version" | "-V" => return Ok(Command::Version),
            other => return Err(format!("unknown argument {other:?}; see tally --help")),
        }
    }
    Ok(Command::Serve { settings })
}

fn main() -> ExitCode {
    match command(std::env::args().skip(1)) {
        Ok(Command::Help) => print!("{HELP}"),
        Ok(Command::Version) => println!("tally {}", env!("CARGO_PKG_VERSION")),
        Ok(Command::Serve { settings }) => {
            let served = Settings::read(settings.as_deref())
                .map_err(|error| error.to_string())
                .and_then(|settings| server::serve(settings).map_err(|error| error.to_string()));
            if let Err(error) = served {
                eprintln!("tally: {error}");
                return ExitCode::FAILURE;
            }
        }
        Err(usage) => {
            eprintln!("tally: {usage}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
