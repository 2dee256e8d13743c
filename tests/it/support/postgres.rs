//! A PostgreSQL of the test's own, in a temporary folder. It never runs as root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Backend, until};

/// The user that owns the tests' databases.
const USER: &str = "tally";

/// Who runs the databases where the tests are root.
const UNPRIVILEGED: &str = "nobody";

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

/// A command that runs as somebody else than root: neither PostgreSQL nor MariaDB shall be root.
pub fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let user = format!("--reuid={UNPRIVILEGED}");
    command
        .args([&user, "--regid=nogroup", "--clear-groups", "--"])
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
        .expect("a database's program, which scripts/setup installs");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said} {error}");
    said
}

/// Gives a folder to the user who runs the databases.
pub fn give(folder: &Path) {
    if is_root() {
        done(Command::new("chown").arg(UNPRIVILEGED).arg(folder));
    }
}

/// Makes the folder of a database.
pub fn initialize(data: &Path) {
    let mut initdb = unprivileged(&program("initdb"));
    initdb.args(["--auth=trust", "--no-sync", "--username", USER, "--pgdata"]);
    done(initdb.arg(data));
}

/// A command that first copies the folder `data` to a small file system, which it alone sees, in the folder `disk`.
/// Needs no privileges.
pub fn on_small_disk(folder: &Path, size: &str, program: &Path) -> Command {
    fs::create_dir_all(folder.join("disk")).expect("a folder");
    let mut command = unprivileged(Path::new("unshare"));
    command
        .current_dir(folder)
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(
            "mount -t tmpfs -o size=$1 none disk && cp -r data disk/ && shift && \
             touch disk/fill && chmod 666 disk/fill && \
             exec unshare --user --map-user=1000 --map-group=1000 \"$@\"",
        )
        .args(["sh", size])
        .arg(program);
    command
}

impl Backend {
    /// Makes a database and starts its server, with these settings (`name=value`).
    pub fn postgres(settings: &'static [&'static str]) -> Self {
        Self::postgres_in(settings, initialize)
    }

    /// The same on a file system of this size.
    pub fn postgres_on_disk(size: &'static str) -> Self {
        let postgres = Self::start(move |folder, port| {
            give(folder);
            initialize(&folder.join("data"));
            let mut command = on_small_disk(folder, size, &program("postgres"));
            command
                .args([
                    "-D",
                    "disk/data",
                    "-h",
                    "127.0.0.1",
                    "-k",
                    "",
                    "-c",
                    "fsync=off",
                ])
                .args(["-c", "max_wal_size=32MB", "-c", "min_wal_size=32MB"])
                .args(["-p", &port.to_string()]);
            command.stderr(std::process::Stdio::null());
            command
        })
        .at(url);
        postgres.until_ready();
        postgres
    }

    /// Leaves no byte free on the database's file system.
    pub fn fill_disk(&self) {
        use std::io::Write;
        let mut file = self.filler();
        let mut size = 65_536;
        while size > 0 {
            if file.write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
    }

    pub fn make_room(&self) {
        self.filler().set_len(0).expect("emptied");
    }

    /// A file on the database's file system, which its process alone sees.
    fn filler(&self) -> fs::File {
        let folder = self.folder.path().strip_prefix("/").expect("absolute");
        let root = PathBuf::from(format!("/proc/{}/root", self.id()));
        let file = root.join(folder).join("disk/fill");
        let mut options = fs::File::options();
        options.write(true).open(file).expect("a file")
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

    /// It listens before it responses.
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
