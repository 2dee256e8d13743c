//! Runs PostgreSQL servers in temporary folders, never as root.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use super::{Backend, until};

/// The user that owns the tests' databases.
const USER: &str = "tally";

/// The user that runs the databases when the tests run as root.
const UNPRIVILEGED: &str = "nobody";

/// The URL of the PostgreSQL on this port.
fn url(port: u16) -> String {
    format!("postgres://{USER}@127.0.0.1:{port}/postgres")
}

/// The path of a PostgreSQL program. Debian installs them in a folder that is not on the PATH.
pub fn program(name: &str) -> PathBuf {
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut found: Vec<PathBuf> = folders
        .filter_map(|folder| Some(folder.ok()?.path().join("bin").join(name)))
        .filter(|program| program.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

/// A command that never runs as root, because neither PostgreSQL nor MariaDB should.
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

/// Runs a command to its end, and returns its output. Panics if the command fails.
pub fn run_to_end(command: &mut Command) -> String {
    let output = command
        .output()
        .expect("a database's program, which scripts/setup installs");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said} {error}");
    said
}

/// Makes the user that runs the databases the owner of a file, or of a folder with its content.
pub fn chown(path: &Path) {
    if is_root() {
        run_to_end(Command::new("chown").args(["-R", UNPRIVILEGED]).arg(path));
    }
}

/// Creates the data folder.
pub fn initialize(data: &Path) {
    let server = program("initdb");
    copy_template(&server, data, |data| {
        let mut initdb = unprivileged(&server);
        initdb.args(["--auth=trust", "--no-sync", "--username", USER, "--pgdata"]);
        initdb.arg(data);
        initdb
    });
}

/// Creates a data folder as a copy of a template, because the program that fills a new folder takes a second.
///
/// The template is kept between runs. `fill` returns the command that fills it, and a template of another version, or of
/// another command, is not used.
pub fn copy_template(program: &Path, data: &Path, fill: impl Fn(&Path) -> Command) {
    static MAKING: Mutex<()> = Mutex::new(());
    let version = run_to_end(Command::new(program).arg("--version"));
    let mut hasher = DefaultHasher::new();
    format!("{version} {:?}", fill(Path::new("data"))).hash(&mut hasher);
    let templates = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = program.file_name().expect("a name").display();
    let template = templates.join(format!("{name}-{:016x}", hasher.finish()));
    {
        let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        if !template.exists() {
            make_template(&template, fill);
        }
    }
    copy(&template, data);
    chown(data);
}

/// Fills a folder elsewhere, because the databases' user may not be able to reach the template's place.
fn make_template(template: &Path, fill: impl Fn(&Path) -> Command) {
    let folder = tempfile::tempdir().expect("a folder");
    chown(folder.path());
    let data = folder.path().join("data");
    run_to_end(&mut fill(&data));
    let templates = template.parent().expect("a folder");
    fs::create_dir_all(templates).expect("a folder");
    let draft = tempfile::tempdir_in(templates).expect("a folder");
    let draft = draft.path().join("data");
    copy(&data, &draft);
    // The folder appears complete or not at all. The rename fails if another process has made the same template.
    let _ = fs::rename(draft, template);
}

fn copy(from: &Path, to: &Path) {
    run_to_end(Command::new("cp").arg("-r").arg(from).arg(to));
}

/// A command that mounts a small file system at `disk`, copies the folder `data` to it, and then runs the program. Only
/// that process sees the file system. Needs no privileges.
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
    /// Starts a PostgreSQL with these settings (`name=value`).
    pub fn postgres(settings: &'static [&'static str]) -> Self {
        Self::postgres_in(settings, initialize)
    }

    /// Starts a PostgreSQL on a file system of this size.
    pub fn postgres_on_disk(size: &'static str) -> Self {
        let postgres = Self::start(move |folder, port| {
            chown(folder);
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

    /// Fills the database's file system to the last byte.
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

    /// Opens the file that fills the database's file system, which only the database's process sees.
    fn filler(&self) -> fs::File {
        let folder = self.folder.path().strip_prefix("/").expect("absolute");
        let root = PathBuf::from(format!("/proc/{}/root", self.id()));
        let file = root.join(folder).join("disk/fill");
        let mut options = fs::File::options();
        options.write(true).open(file).expect("a file")
    }

    /// Starts a PostgreSQL whose data folder `make` creates.
    pub fn postgres_in(
        settings: &'static [&'static str],
        make: impl Fn(&Path) + Send + Sync + 'static,
    ) -> Self {
        let postgres = Self::start(move |folder, port| {
            let data = folder.join("data");
            if !data.exists() {
                chown(folder);
                make(&data);
            }
            let mut command = unprivileged(&program("postgres"));
            command
                .arg("-D")
                .arg(data)
                .args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""])
                // The tests kill the server but not the system, so the system still writes what it has.
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

    /// Runs a statement with psql. The output has one line for each row.
    pub fn sql(&self, statement: &str) -> String {
        run_to_end(Command::new("psql").args(["-XAtqd", &url(self.port), "-c", statement]))
    }

    /// Waits until the server accepts statements. It listens before it is ready.
    pub fn until_ready(&self) {
        let mut ask = Command::new(program("pg_isready"));
        ask.args(["-q", "-d", &url(self.port)]);
        until(|| {
            ask.status()
                .is_ok_and(|status| status.success())
                .then_some(())
        });
    }

    /// Starts a PgBouncer in this pool mode, in front of the PostgreSQL on the port `server`.
    pub fn pooler(server: u16, mode: &'static str) -> Self {
        Self::start(move |folder, port| {
            let config = folder.join("pgbouncer.ini");
            let text = format!(
                "[databases]\n* = host=127.0.0.1 port={server} user={USER}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir =\n"
            );
            fs::write(&config, text).expect("written");
            chown(folder);
            let mut command = unprivileged(Path::new("pgbouncer"));
            command.arg("-q").arg(config);
            command.stderr(std::process::Stdio::null());
            command
        })
    }
}
