//! Starts the real binary and real stores on free ports, sends requests, and stops every process that it has started.

pub mod balancer;
pub mod console;
pub mod load_generator;
pub mod mariadb;
pub mod page;
pub mod postgres;
pub mod proxy;

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU16, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tally::client_session::ClientSession;
use tempfile::TempDir;
use ureq::{Agent, http};

/// How long a test waits for a condition before it fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The kind of a session store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Memory,
    File,
    Sqlite,
    Memcached,
    MariaDb,
    Postgres,
    Redis,
}

impl Engine {
    pub const ALL: [Self; 7] = [
        Self::Memory,
        Self::File,
        Self::Sqlite,
        Self::Memcached,
        Self::MariaDb,
        Self::Postgres,
        Self::Redis,
    ];
}

/// The binary under test: the one that `TALLY_BINARY` names, or else the one that Cargo built.
pub fn binary(folder: &Path) -> Command {
    let named = std::env::var_os("TALLY_BINARY");
    clean(named.map_or_else(|| built("tally"), PathBuf::from), folder)
}

/// The site with additional routes for the tests, which Cargo builds from examples/probe.rs.
fn probe(folder: &Path) -> Command {
    clean(built("examples/probe"), folder)
}

/// The path of a binary that Cargo built together with this test. It is relative to the test's own path, because the
/// target folder may be outside the checkout.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let folder = test.ancestors().nth(2).expect("the folder above deps");
    folder.join(name)
}

/// A command that inherits none of the settings in the tests' environment.
fn clean(path: PathBuf, folder: &Path) -> Command {
    let mut command = Command::new(path);
    command.current_dir(folder);
    for (name, _) in std::env::vars() {
        let is_own = |own: &&str| name.starts_with(*own);
        if ["SESSION_", "TALLY_", "LEPTOS_", "REDIS_", "DATABASE_", "PG"]
            .iter()
            .any(is_own)
        {
            command.env_remove(name);
        }
    }
    command.env("TALLY_METRICS", "off");
    command
}

/// The server of a session store, such as Redis, on a free port.
pub struct Backend {
    process: Mutex<Child>,
    start: Box<dyn Fn() -> Command + Send + Sync>,
    pub folder: Arc<TempDir>,
    pub port: u16,
    /// Returns the store's URL for a port.
    address: fn(u16) -> String,
}

impl Backend {
    /// Starts the command for a new folder and a free port, and waits until it listens.
    pub fn start(command: impl Fn(&Path, u16) -> Command + Send + Sync + 'static) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        let port = free_port();
        let start = {
            let folder = Arc::clone(&folder);
            Box::new(move || command(folder.path(), port))
        };
        let process = Mutex::new(run(&start));
        let backend = Self {
            process,
            start,
            folder,
            port,
            address: |port| format!("redis://127.0.0.1:{port}"),
        };
        backend.until_up();
        backend
    }

    /// Starts a Redis that saves its data when it stops.
    pub fn redis(arguments: &'static [&'static str]) -> Self {
        Self::start(move |folder, port| {
            let mut command = Command::new("redis-server");
            command
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
                .args(["--save", "3600 1", "--dir"])
                .arg(folder)
                .args(arguments);
            command
        })
    }

    /// Starts a Redis Cluster of `nodes` servers, with `replicas` replicas for each master.
    pub fn cluster(nodes: usize, replicas: usize, arguments: &'static [&'static str]) -> Vec<Self> {
        let nodes: Vec<_> = (0..nodes).map(|_| Self::redis(arguments)).collect();
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)))
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .output()
            .expect("redis-cli");
        let said = String::from_utf8_lossy(&made.stdout);
        assert!(made.status.success(), "{said}");
        for node in &nodes {
            let is_up = || node.ask(&["cluster", "info"]).contains("cluster_state:ok");
            until(|| is_up().then_some(()));
        }
        nodes
    }

    pub fn memcached() -> Self {
        Self::start(|_, port| {
            let mut command = Command::new("memcached");
            // Without `-u root`, Memcached refuses to run as root.
            command.args(["-l", "127.0.0.1", "-u", "root", "-p", &port.to_string()]);
            command
        })
        .at(|port| format!("memcached://127.0.0.1:{port}"))
    }

    /// Sets the kind of the URL.
    fn at(mut self, address: fn(u16) -> String) -> Self {
        self.address = address;
        self
    }

    /// The store's URL, for `SESSION_STORE`.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The store's URL at another port, where a proxy listens.
    pub fn url_at(&self, port: u16) -> String {
        (self.address)(port)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.lock().expect("not poisoned").id()
    }

    /// Creates a database in a PostgreSQL or a MariaDB, and returns its URL.
    fn url_of_new_database(&self) -> String {
        static CREATED: AtomicU16 = AtomicU16::new(0);
        let name = format!("test_{}", CREATED.fetch_add(1, Ordering::SeqCst));
        let create = format!("create database {name}");
        let url = self.url();
        if url.starts_with("postgres") {
            self.sql(&create);
        } else {
            self.mysql(&create);
        }
        let (server, _) = url.rsplit_once('/').expect("a database");
        format!("{server}/{name}")
    }

    /// Sends a signal, such as STOP or CONT.
    pub fn signal(&self, name: &str) {
        signal(&self.process.lock().expect("not poisoned"), name);
    }

    /// Stops the server as an operator would. PostgreSQL gets INT, because at TERM it waits for its clients.
    pub fn stop(&self) {
        let mut process = self.process.lock().expect("not poisoned");
        let is_postgres = self.url().starts_with("postgres");
        signal(&process, if is_postgres { "INT" } else { "TERM" });
        process.wait().expect("it ends");
    }

    /// Kills the server, as a crash would.
    pub fn kill(&self) {
        let mut process = self.process.lock().expect("not poisoned");
        process.kill().expect("it ends");
        process.wait().expect("it ends");
    }

    pub fn start_again(&self) {
        *self.process.lock().expect("not poisoned") = run(&self.start);
        self.until_up();
    }

    /// Runs a command with redis-cli, and returns its output. Panics if Redis does not answer.
    pub fn ask(&self, arguments: &[&str]) -> String {
        redis_cli(self.port, arguments)
    }

    /// Like [`Backend::ask`], but returns `None` if Redis does not answer.
    pub fn try_ask(&self, arguments: &[&str]) -> Option<String> {
        try_redis_cli(self.port, arguments)
    }

    /// The number of keys in a Redis.
    pub fn keys(&self) -> u64 {
        self.ask(&["dbsize"]).parse().expect("a number")
    }

    fn until_up(&self) {
        until(|| TcpStream::connect(("127.0.0.1", self.port)).ok());
        if self.url().starts_with("postgres") {
            self.until_ready();
        }
        if self.url().starts_with("mysql") {
            self.until_database();
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let process = self.process.get_mut().expect("not poisoned");
        let _ = process.kill();
        let _ = process.wait();
    }
}

fn run(start: &dyn Fn() -> Command) -> Child {
    let mut command = start();
    let name = command.get_program().to_owned();
    command
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{name:?}, which scripts/setup installs: {error}"))
}

/// Runs a command with redis-cli, and returns its output. Panics if no Redis answers.
pub fn redis_cli(port: u16, arguments: &[&str]) -> String {
    try_redis_cli(port, arguments)
        .unwrap_or_else(|| panic!("no Redis on port {port} answers {arguments:?}"))
}

fn try_redis_cli(port: u16, arguments: &[&str]) -> Option<String> {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(arguments)
        .output()
        .expect("redis-cli, which scripts/setup installs");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(said)
}

/// Runs a command to its end, and returns its output. A command that does not end is killed.
pub fn output_of(command: &mut Command) -> Output {
    let process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let id = process.id().to_string();
    let (ended, waiting) = mpsc::channel::<()>();
    let watching = thread::spawn(move || {
        if waiting.recv_timeout(2 * DEADLINE) == Err(RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-s", "KILL", &id]).status();
        }
    });
    let output = process.wait_with_output().expect("it ends");
    drop(ended);
    watching.join().expect("no panic");
    output
}

/// A PostgreSQL and a MariaDB that tests share, because each takes a moment to start. Each test has its own databases.
///
/// Each server starts when it is first needed, and stops when the last test drops it.
#[derive(Default)]
pub struct Databases {
    postgres: OnceLock<Arc<Backend>>,
    mariadb: OnceLock<Arc<Backend>>,
}

impl Databases {
    pub fn shared() -> Self {
        Self::default()
    }

    fn of(&self, engine: Engine) -> Option<&Arc<Backend>> {
        static POSTGRES: Mutex<Weak<Backend>> = Mutex::new(Weak::new());
        static MARIADB: Mutex<Weak<Backend>> = Mutex::new(Weak::new());
        // Several servers use each database, and each opens up to 17 connections.
        match engine {
            Engine::Postgres => Some(self.postgres.get_or_init(|| {
                running_or(&POSTGRES, || Backend::postgres(&["max_connections=300"]))
            })),
            Engine::MariaDb => Some(self.mariadb.get_or_init(|| {
                running_or(&MARIADB, || Backend::mariadb(&["--max-connections=300"]))
            })),
            _ => None,
        }
    }
}

/// Returns the server that another test has started and still uses, or starts one.
fn running_or(shared: &Mutex<Weak<Backend>>, start: fn() -> Backend) -> Arc<Backend> {
    let mut running = shared.lock().unwrap_or_else(PoisonError::into_inner);
    running.upgrade().unwrap_or_else(|| {
        let started = Arc::new(start());
        *running = Arc::downgrade(&started);
        started
    })
}

/// A running Tally.
pub struct Server {
    process: Child,
    folder: Arc<TempDir>,
    backend: Option<Arc<Backend>>,
    setup: Setup,
    url: String,
    metrics: String,
}

/// How to start a [`Server`].
#[derive(Clone)]
pub struct Setup {
    store: String,
    probe: bool,
    /// The folder and the mount options of a file system that only the server sees.
    disk: Option<(String, String)>,
    variables: Vec<(String, String)>,
    /// The settings file, if there is one.
    settings: Option<PathBuf>,
}

impl Setup {
    /// Uses this settings file.
    pub fn settings(mut self, file: &Path) -> Self {
        self.settings = Some(file.to_owned());
        self
    }

    /// Adds the routes of examples/probe.rs.
    pub fn probe(mut self) -> Self {
        self.probe = true;
        self
    }

    /// Mounts a file system in memory at a subfolder of the server's folder. Only the server sees it.
    pub fn on_disk(mut self, folder: &str, options: &str) -> Self {
        self.disk = Some((folder.to_owned(), options.to_owned()));
        self
    }

    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl Server {
    pub fn start(engine: Engine) -> Self {
        Self::start_as(engine, |setup| setup)
    }

    pub fn probe(engine: Engine) -> Self {
        Self::start_as(engine, Setup::probe)
    }

    pub fn start_as(engine: Engine, adapt: impl FnOnce(Setup) -> Setup) -> Self {
        let backend = match engine {
            Engine::Redis => Some(Backend::redis(&[])),
            Engine::Memcached => Some(Backend::memcached()),
            Engine::MariaDb => Some(Backend::mariadb(&[])),
            Engine::Postgres => Some(Backend::postgres(&[])),
            _ => None,
        };
        let store = backend.as_ref().map(Backend::url);
        Self::start_with(engine, backend.map(Arc::new), store, adapt)
    }

    /// Like [`Server::start_as`], but in a new database of a shared PostgreSQL or MariaDB, if it is one of these.
    pub fn start_in(
        databases: &Databases,
        engine: Engine,
        adapt: impl FnOnce(Setup) -> Setup,
    ) -> Self {
        let Some(backend) = databases.of(engine) else {
            return Self::start_as(engine, adapt);
        };
        let store = backend.url_of_new_database();
        Self::start_with(engine, Some(Arc::clone(backend)), Some(store), adapt)
    }

    fn start_with(
        engine: Engine,
        backend: Option<Arc<Backend>>,
        store: Option<String>,
        adapt: impl FnOnce(Setup) -> Setup,
    ) -> Self {
        let store = match (store, engine) {
            (Some(store), _) => store,
            (None, Engine::File) => "file://sessions".to_owned(),
            (None, Engine::Sqlite) => "sqlite://sessions/sessions.sqlite3".to_owned(),
            (None, _) => "memory:".to_owned(),
        };
        let mut server = Self::on(&store, adapt);
        server.backend = backend;
        server
    }

    /// Starts a server on an existing store.
    pub fn on(store: &str, adapt: impl FnOnce(Setup) -> Setup) -> Self {
        let setup = adapt(Setup {
            store: store.to_owned(),
            probe: false,
            disk: None,
            variables: Vec::new(),
            settings: None,
        });
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        Self::with(folder, None, setup)
    }

    fn with(folder: Arc<TempDir>, backend: Option<Arc<Backend>>, setup: Setup) -> Self {
        let (process, url, metrics) = spawn(folder.path(), &setup);
        Self {
            process,
            folder,
            backend,
            setup,
            url,
            metrics,
        }
    }

    /// Starts another server on the same store.
    pub fn beside(&self) -> Self {
        let folder = Arc::clone(&self.folder);
        Self::with(folder, self.backend.clone(), self.setup.clone())
    }

    /// Starts another server on the same store, with other settings.
    pub fn beside_as(&self, adapt: impl FnOnce(Setup) -> Setup) -> Self {
        let folder = Arc::clone(&self.folder);
        Self::with(folder, self.backend.clone(), adapt(self.setup.clone()))
    }

    pub fn restart(&mut self) {
        self.stop("TERM");
        (self.process, self.url, self.metrics) = spawn(self.folder.path(), &self.setup);
    }

    /// Runs a command of the binary on the same store, and returns its output. The command must succeed.
    pub fn command(&self, arguments: &[&str]) -> String {
        let output = self.try_command(arguments, &[]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Like [`Server::command`], but with additional environment variables, and the command may fail.
    pub fn try_command(&self, arguments: &[&str], variables: &[(String, String)]) -> Output {
        let mut command = binary(self.folder.path());
        command
            .args(arguments)
            .env("SESSION_STORE", &self.setup.store)
            .envs(self.setup.variables.iter().cloned())
            .envs(variables.iter().cloned());
        output_of(&mut command)
    }

    /// Runs `check --deploy` with additional environment variables, and returns its list of problems. There are always
    /// some, because the tests use no TLS.
    pub fn problems(&self, variables: &[(String, String)]) -> String {
        let output = self.try_command(&["check", "--deploy"], variables);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let problems = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(problems.contains("plain http"), "{output:?}");
        problems
    }

    /// Sends a signal, and waits until the process has ended.
    pub fn stop(&mut self, name: &str) -> ExitStatus {
        signal(&self.process, name);
        self.process.wait().expect("the server ends")
    }

    pub fn backend(&self) -> &Backend {
        self.shared_backend()
    }

    /// Like [`Server::backend`], but independent of the borrow of the server.
    pub fn shared_backend(&self) -> &Arc<Backend> {
        self.backend
            .as_ref()
            .expect("a server whose store is a server")
    }

    /// The store's URL.
    pub fn store(&self) -> &str {
        &self.setup.store
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The server's working directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The resident memory of the server's process.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kibibytes
            .expect("a size")
            .trim()
            .parse::<u64>()
            .expect("a number")
            * 1_024
    }

    /// The value of a metric, or 0 if the server has counted nothing yet. Adds up the series that begin with the name.
    pub fn metric(&self, name: &str) -> f64 {
        let text = get(&self.metrics).body;
        let family = name.split('{').next().unwrap_or(name);
        let suffix = ["_total", "_count", "_bucket"]
            .iter()
            .find_map(|suffix| family.strip_suffix(suffix));
        let family = suffix.unwrap_or(family);
        assert!(text.contains(&format!("# TYPE {family} ")), "no {family}");
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        lines
            .filter(|(metric, _)| metric.starts_with(name))
            .map(|(_, value)| value.parse::<f64>().expect("a number"))
            .sum()
    }

    pub fn metrics_url(&self) -> &str {
        &self.metrics
    }

    /// The server's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }

    /// The store's files, if the engine has any.
    pub fn files(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.folder.path().join("sessions"))
            .expect("a readable folder")
            .map(|entry| entry.expect("an entry").path())
            .collect()
    }

    pub fn address(&self) -> String {
        self.url["http://".len()..].to_owned()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::to(method, &self.url(path))
    }

    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    /// Requests a stream of events, and reads nothing.
    pub fn stream(&self, path: &str, cookie: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address()).expect("connected");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nCookie: {cookie}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        stream
    }

    pub fn post(&self, path: &str) -> Request {
        self.request("POST", path)
            .header("content-type", "application/x-www-form-urlencoded")
    }

    /// Counts one visit with the server function, and returns the count.
    pub fn visit(&self, cookie: &str) -> u64 {
        let response = self.post("/api/visit").cookie(cookie).send();
        assert_eq!(response.status, 200, "{}", response.body);
        response.count().expect("a number")
    }

    /// Visits the site without a cookie, and returns the new session's cookie.
    pub fn new_session(&self) -> String {
        let response = self.get("/").send();
        cookie_of(response.header("set-cookie").expect("a cookie"))
    }

    /// Like [`Server::new_session`], but tries until it succeeds, because a replica may be slow at first.
    pub fn until_new_session(&self) -> String {
        until(|| self.get("/").send().header("set-cookie").map(cookie_of))
    }

    /// The session's visit count, read without changing the session. 0 if there is no such session.
    pub fn stored_visits(&self, cookie: &str) -> u64 {
        let response = self
            .get("/")
            .header("sec-purpose", "prefetch")
            .cookie(cookie)
            .send();
        response.visits()
    }

    /// Requests a path until the status is 200. Until then, it must be 503.
    pub fn until_up(&self, path: &str, cookie: &str) -> Response {
        until(|| {
            let response = self.get(path).cookie(cookie).send();
            assert!([200, 503].contains(&response.status), "{}", response.status);
            (response.status == 200).then_some(response)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts the server, and returns it with the URLs of its site and its metrics.
fn spawn(folder: &Path, setup: &Setup) -> (Child, String, String) {
    let log = File::options()
        .append(true)
        .create(true)
        .open(folder.join("log"))
        .expect("a log");
    let command = if setup.probe { probe } else { binary };
    let command = match &setup.disk {
        None => command(folder),
        Some((disk, options)) => on_disk(command(folder), folder, disk, options),
    };
    let mut command = command;
    if let Some(file) = &setup.settings {
        command.arg("--settings").arg(file);
    }
    let mut process = command
        .env("LEPTOS_SITE_ADDR", "127.0.0.1:0")
        .env("TALLY_METRICS", "127.0.0.1:0")
        // No limit on new sessions, because all visitors of a test come from one address.
        .env("TALLY_NEW_SESSIONS_PER_SECOND", "0")
        .env("SESSION_STORE", &setup.store)
        .envs(setup.variables.iter().cloned())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the binary starts");
    let out = process.stdout.take().expect("piped");
    let mut addresses = BufReader::new(out)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.find("http://").map(|at| line[at..].to_owned()));
    let mut next = || {
        addresses.next().unwrap_or_else(|| {
            let log = std::fs::read_to_string(folder.join("log"));
            panic!("the server did not start: {}", log.unwrap_or_default())
        })
    };
    let (url, metrics) = (next(), next());
    (process, url, metrics)
}

/// Wraps a command so that it runs with a small file system in memory that only it sees. Needs no privileges.
pub fn on_disk(command: Command, folder: &Path, disk: &str, options: &str) -> Command {
    std::fs::create_dir_all(folder.join(disk)).expect("a folder");
    let mut inside = clean("unshare".into(), folder);
    inside
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o \"$1\" none \"$2\" && exec \"$3\"")
        .args(["sh", options, disk])
        .arg(command.get_program());
    inside
}

/// Environment variables that shift a process's clock.
pub fn clock(offset: &str) -> Vec<(String, String)> {
    let library = faketime().expect("libfaketime, which scripts/setup installs");
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", offset.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// The path of libfaketime from Debian's package. Its folder depends on the machine's architecture.
pub fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    folders
        .filter_map(Result::ok)
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .find(|library| library.exists())
}

fn signal(process: &Child, name: &str) {
    let id = process.id().to_string();
    let status = Command::new("kill").args(["-s", name, &id]).status();
    assert!(status.expect("kill runs").success());
}

/// Returns a port that is free, and that no other call returns.
///
/// The port 10,000 above it is free too, because the servers of a Redis Cluster use it among themselves. Both are below
/// the range from which the system assigns ports by itself.
pub fn free_port() -> u16 {
    static DRAWN: AtomicU16 = AtomicU16::new(0);
    let begin = (std::process::id() % 100) as u16 * 100;
    until(|| {
        let drawn = DRAWN.fetch_add(1, Ordering::SeqCst);
        let port = 10_000 + (begin + drawn) % 10_000;
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        (is_free(port) && is_free(port + 10_000)).then_some(port)
    })
}

/// Calls `condition` until it returns a value, with pauses that grow to 20 ms, because a busy loop would slow the
/// servers that it waits for.
pub fn until<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + DEADLINE;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            Instant::now() < give_up,
            "the condition was not met within {DEADLINE:?}"
        );
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

thread_local! {
    /// Each thread is one client, with its own connections.
    static AGENT: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(2 * DEADLINE))
        .build()
        .into();
}

/// The `name=value` of a `Set-Cookie` header.
pub fn cookie_of(set_cookie: &str) -> String {
    set_cookie.split(';').next().unwrap_or_default().to_owned()
}

/// Requests a URL.
pub fn get(url: &str) -> Response {
    Request::to("GET", url).send()
}

/// The session in the body of a server function's response.
fn session_in(body: &str) -> Option<ClientSession> {
    serde_json::from_str::<Option<_>>(body).ok()?
}

/// The visit count in the body of a server function's response.
pub fn count_in(body: &str) -> Option<u64> {
    Some(session_in(body)?.visitor.visits)
}

pub struct Request {
    builder: http::request::Builder,
    body: String,
}

impl Request {
    pub fn to(method: &str, url: &str) -> Self {
        Self {
            builder: http::Request::builder().method(method).uri(url),
            body: String::new(),
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }

    /// Sets the cookie. If it is empty, no header is sent.
    pub fn cookie(self, cookie: &str) -> Self {
        if cookie.is_empty() {
            self
        } else {
            self.header("cookie", cookie)
        }
    }

    pub fn cookie_bytes(mut self, cookie: &[u8]) -> Self {
        self.builder = self.builder.header("cookie", cookie);
        self
    }

    pub fn body(mut self, body: &str) -> Self {
        self.body = body.to_owned();
        self
    }

    pub fn send(self) -> Response {
        self.try_send().expect("a response")
    }

    /// Sends the request. `None`: the connection was refused or broke.
    pub fn try_send(self) -> Option<Response> {
        let request = self.builder.body(self.body).expect("a request");
        let mut response = AGENT.with(|agent| agent.run(request)).ok()?;
        let mut body = Vec::new();
        let reader = response.body_mut().as_reader();
        { reader }.read_to_end(&mut body).ok()?;
        Some(Response {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

pub struct Response {
    pub status: u16,
    headers: http::HeaderMap,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("text"))
    }

    pub fn varies_by_cookie(&self) -> bool {
        self.headers
            .get_all("vary")
            .iter()
            .any(|value| value == "Cookie")
    }

    /// The session in the response of a server function.
    pub fn session(&self) -> Option<ClientSession> {
        session_in(&self.body)
    }

    /// The visit count in the response of a server function.
    pub fn count(&self) -> Option<u64> {
        count_in(&self.body)
    }

    /// The large number on the page.
    pub fn visits(&self) -> u64 {
        let page = self.body.split_once("class=\"number\">");
        let (_, rest) = page.unwrap_or_else(|| panic!("no number: {} {}", self.status, self.body));
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    }
}
