//! Runs MariaDB servers in temporary folders, never as root.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Backend,
    postgres::{chown, copy_template, on_small_disk, run_to_end, unprivileged},
    until,
};

/// The database that contains the sessions.
const DATABASE: &str = "tally";

fn url(port: u16) -> String {
    format!("mysql://root@127.0.0.1:{port}/{DATABASE}")
}

/// The path of the server. Debian installs it in a folder that is not on an ordinary user's PATH.
fn program() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/mariadbd");
    if debian.exists() {
        debian
    } else {
        PathBuf::from("mariadbd")
    }
}

/// Creates the data folder.
fn initialize(data: &Path) {
    copy_template(&program(), data, |data| {
        let mut install = unprivileged(Path::new("mariadb-install-db"));
        // A server removes all temporary files that it finds in its folder, even those of another server.
        install.env("TMPDIR", data.parent().expect("a folder"));
        install.args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            "--innodb-log-file-size=16M",
        ]);
        install.arg(format!("--datadir={}", data.display()));
        install
    });
}

fn arguments(folder: &Path, data: &Path, port: u16) -> Vec<String> {
    vec![
        "--no-defaults".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        "--skip-name-resolve".to_owned(),
        "--innodb-log-file-size=16M".to_owned(),
        format!("--tmpdir={}", folder.display()),
        format!("--datadir={}", data.display()),
        format!("--port={port}"),
        format!("--socket={}", folder.join("socket").display()),
    ]
}

impl Backend {
    /// Starts a MariaDB with these options (`--name=value`).
    pub fn mariadb(options: &'static [&'static str]) -> Self {
        Self::mariadb_in(options, |_| {})
    }

    /// Like [`Backend::mariadb`], but first calls `prepare` with the empty folder.
    pub fn mariadb_in(
        options: &'static [&'static str],
        prepare: impl Fn(&Path) + Send + Sync + 'static,
    ) -> Self {
        let mariadb = Self::start(move |folder, port| {
            let data = folder.join("data");
            if !data.join("mysql").exists() {
                chown(folder);
                prepare(folder);
                initialize(&data);
            }
            let mut command = unprivileged(&program());
            command.args(arguments(folder, &data, port)).args(options);
            command.stderr(std::process::Stdio::null());
            command
        })
        .at(url);
        mariadb.until_database();
        mariadb
    }

    /// Starts a MariaDB on a file system of this size.
    pub fn mariadb_on_disk(size: &'static str) -> Self {
        let mariadb = Self::start(move |folder, port| {
            chown(folder);
            initialize(&folder.join("data"));
            let mut command = on_small_disk(folder, size, &program());
            command.args(arguments(folder, &folder.join("disk/data"), port));
            command.stderr(std::process::Stdio::null());
            command
        })
        .at(url);
        mariadb.until_database();
        mariadb
    }

    /// Runs a statement with MariaDB's own client. The output has one line for each row.
    pub fn mysql(&self, statement: &str) -> String {
        run_to_end(self.client().args(["-e", statement]))
    }

    /// Waits until the server accepts statements, and creates the database. The server listens before it is ready.
    pub fn until_database(&self) {
        let mut create = self.client();
        create.args(["-e", &format!("create database if not exists {DATABASE}")]);
        create.stderr(std::process::Stdio::null());
        until(|| {
            create
                .status()
                .is_ok_and(|status| status.success())
                .then_some(())
        });
    }

    fn client(&self) -> Command {
        let mut client = Command::new("mariadb");
        let port = self.port.to_string();
        client.args(["--no-defaults", "-h127.0.0.1", "-uroot", "-BN", "-P", &port]);
        client
    }
}
