//! A PostgreSQL of the test's own, in a temporary folder. It never runs as root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Keeper, until};

/// The user that owns the tests' databases.
const USER: &str = "tally";

/// The address of a PostgreSQL on this port.
fn url(port: u16) -> String {
    format!("postgres://{USER}@127.0.0.1:{port}/postgres")
}

/// A program of PostgreSQL, which Debian keeps off the PATH.
pub fn program(name: &str) -> PathBuf {
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut found: Vec<PathBuf> = folders
        .filter_map(|folder| Some(folder.ok()?.path().join("bin").join(name)))
        .filter(|program| program.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

/// A command that runs as somebody else than root: PostgreSQL refuses to be root.
pub fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ])
        .arg(program);
    command
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id");
    id.stdout.starts_with(b"0")
}

/// Runs a command that has to succeed.
pub fn done(command: &mut Command) -> String {
    let output = command
        .output()
        .expect("PostgreSQL, which scripts/setup installs");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said} {error}");
    said
}

/// Gives a folder to the user whom PostgreSQL runs as.
pub fn give(folder: &Path) {
    if is_root() {
        done(Command::new("chown").arg("postgres").arg(folder));
    }
}

impl Keeper {
    /// Makes a database and starts its server, with these settings (`name=value`).
    pub fn postgres(settings: &'static [&'static str]) -> Self {
        Self::postgres_in(settings, |data| {
            let mut initdb = unprivileged(&program("initdb"));
            initdb.args(["--auth=trust", "--no-sync", "--username", USER, "--pgdata"]);
            done(initdb.arg(data));
        })
    }

    /// Starts a server on what `make` puts into a folder.
    pub fn postgres_in(
        settings: &'static [&'static str],
        make: impl Fn(&Path) + Send + Sync + 'static,
    ) -> Self {
        let postgres = Self::start(move |folder, port| {
            let data = folder.join("data");
            if !data.exists() {
                give(folder);
                make(&data);
            }
            let mut command = unprivileged(&program("postgres"));
            command
                .arg("-D")
                .arg(data)
                .args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""])
                // A crash of the server loses nothing that the system has; the tests crash no system.
                .args(["-c", "fsync=off"]);
            for setting in settings {
                command.args(["-c", setting]);
            }
            command.stderr(std::process::Stdio::null());
            command
        })
        .at(url);
        postgres.until_ready();
        postgres
    }

    /// Asks a PostgreSQL by psql, which prints one value a line.
    pub fn sql(&self, statement: &str) -> String {
        done(Command::new("psql").args(["-XAtqd", &url(self.port), "-c", statement]))
    }

    /// It listens before it answers.
    pub fn until_ready(&self) {
        let mut ask = Command::new(program("pg_isready"));
        ask.args(["-q", "-d", &url(self.port)]);
        until(|| {
            ask.status()
                .is_ok_and(|status| status.success())
                .then_some(())
        });
    }

    /// A pooler before a PostgreSQL, in this mode.
    pub fn pooler(server: u16, mode: &'static str) -> Self {
        Self::start(move |folder, port| {
            let config = folder.join("pgbouncer.ini");
            let text = format!(
                "[databases]\n* = host=127.0.0.1 port={server} user={USER}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir =\n"
            );
            fs::write(&config, text).expect("written");
            give(folder);
            let mut command = unprivileged(Path::new("pgbouncer"));
            command.arg("-q").arg(config);
            command.stderr(std::process::Stdio::null());
            command
        })
    }
}
