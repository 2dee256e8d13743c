//! A MariaDB of the test's own, in a temporary folder. It never runs as root.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Backend,
    postgres::{done, give, on_small_disk, unprivileged},
    until,
};

/// The database of the sessions.
const DATABASE: &str = "tally";

fn url(port: u16) -> String {
    format!("mysql://root@127.0.0.1:{port}/{DATABASE}")
}

/// The server, which Debian keeps off the PATH of ordinary users.
fn program() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/mariadbd");
    if debian.exists() {
        debian
    } else {
        PathBuf::from("mariadbd")
    }
}

/// Makes the folder of a database.
fn initialize(folder: &Path, data: &Path) {
    let mut install = unprivileged(Path::new("mariadb-install-db"));
    // Each server removes the temporary files that it finds there, another's too.
    install.env("TMPDIR", folder);
    install.args([
        "--no-defaults",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--skip-name-resolve",
        "--innodb-log-file-size=16M",
    ]);
    done(install.arg(format!("--datadir={}", data.display())));
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
    /// Makes a database and starts its server, with these options (`--name=value`).
    pub fn mariadb(options: &'static [&'static str]) -> Self {
        Self::mariadb_in(options, |_| {})
    }

    /// The same, where `prepare` sees the folder before the data is made in `data` there.
    pub fn mariadb_in(
        options: &'static [&'static str],
        prepare: impl Fn(&Path) + Send + Sync + 'static,
    ) -> Self {
        let mariadb = Self::start(move |folder, port| {
            let data = folder.join("data");
            if !data.join("mysql").exists() {
                give(folder);
                prepare(folder);
                initialize(folder, &data);
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

    /// A MariaDB on a file system of this size.
    pub fn mariadb_on_disk(size: &'static str) -> Self {
        let mariadb = Self::start(move |folder, port| {
            give(folder);
            initialize(folder, &folder.join("data"));
            let mut command = on_small_disk(folder, size, &program());
            command.args(arguments(folder, &folder.join("disk/data"), port));
            command.stderr(std::process::Stdio::null());
            command
        })
        .at(url);
        mariadb.until_database();
        mariadb
    }

    /// Asks a MariaDB by its own client, which prints one value a line.
    pub fn mysql(&self, statement: &str) -> String {
        done(self.client().args(["-e", statement]))
    }

    /// It listens before it responses.
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
