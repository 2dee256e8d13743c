//! Starts the real binary and a real Redis on free ports, asks over HTTP, and stops what it started.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use ureq::{Agent, http};

/// How long a condition is waited for before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// What keeps the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Memory,
    Sqlite,
    Redis,
}

impl Engine {
    pub const ALL: [Self; 3] = [Self::Memory, Self::Sqlite, Self::Redis];
}

/// The binary under test: TALLY_BINARY, else the one that cargo built.
pub fn binary(folder: &Path) -> Command {
    let path = std::env::var_os("TALLY_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_tally")), PathBuf::from);
    let mut command = Command::new(path);
    command.current_dir(folder);
    for (name, _) in std::env::vars() {
        if ["SESSION_", "TALLY_", "LEPTOS_", "REDIS_"]
            .iter()
            .any(|own| name.starts_with(own))
        {
            command.env_remove(name);
        }
    }
    command
}

/// A Redis of the test's own; what it holds is saved when it stops.
pub struct Redis {
    process: Mutex<Child>,
    folder: TempDir,
    pub port: u16,
}

impl Redis {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let process = Mutex::new(redis_process(folder.path(), port));
        let redis = Self {
            process,
            folder,
            port,
        };
        redis.until_up();
        redis
    }

    /// Stops it as an operator would: what it holds is saved.
    pub fn stop(&self) {
        let mut process = self.process.lock().expect("not poisoned");
        signal(&process, "TERM");
        process.wait().expect("redis-server ends");
    }

    pub fn start_again(&self) {
        *self.process.lock().expect("not poisoned") = redis_process(self.folder.path(), self.port);
        self.until_up();
    }

    fn until_up(&self) {
        until(|| TcpStream::connect(("127.0.0.1", self.port)).ok());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.get_mut().expect("not poisoned").kill();
        let _ = self.process.get_mut().expect("not poisoned").wait();
    }
}

fn redis_process(folder: &Path, port: u16) -> Child {
    Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "3600 1",
        ])
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server, which scripts/setup test installs")
}

/// A running Tally.
pub struct Server {
    process: Child,
    folder: Arc<TempDir>,
    redis: Option<Arc<Redis>>,
    store: String,
    url: String,
}

impl Server {
    pub fn start(engine: Engine) -> Self {
        let redis = (engine == Engine::Redis).then(|| Arc::new(Redis::start()));
        let store = match (&redis, engine) {
            (Some(redis), _) => format!("redis://127.0.0.1:{}", redis.port),
            (None, Engine::Sqlite) => "sqlite://sessions.sqlite3".to_owned(),
            (None, _) => "memory:".to_owned(),
        };
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        Self::with(folder, redis, store)
    }

    fn with(folder: Arc<TempDir>, redis: Option<Arc<Redis>>, store: String) -> Self {
        let (process, url) = spawn(folder.path(), &store);
        Self {
            process,
            folder,
            redis,
            store,
            url,
        }
    }

    /// A second server on the same store.
    pub fn beside(&self) -> Self {
        Self::with(
            Arc::clone(&self.folder),
            self.redis.clone(),
            self.store.clone(),
        )
    }

    pub fn restart(&mut self) {
        self.stop("TERM");
        (self.process, self.url) = spawn(self.folder.path(), &self.store);
    }

    /// Sends a signal and waits for the end.
    pub fn stop(&mut self, name: &str) -> ExitStatus {
        signal(&self.process, name);
        self.process.wait().expect("the server ends")
    }

    pub fn redis(&self) -> &Redis {
        self.redis.as_deref().expect("a server on Redis")
    }

    /// The files that the server has made.
    pub fn files(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.folder.path())
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
        let builder = http::Request::builder().method(method).uri(self.url(path));
        Request {
            builder,
            body: String::new(),
        }
    }

    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    pub fn post(&self, path: &str) -> Request {
        self.request("POST", path)
            .header("content-type", "application/x-www-form-urlencoded")
    }

    /// Visits once and returns the cookie.
    pub fn new_session(&self) -> String {
        let answer = self.get("/").send();
        cookie_of(answer.header("set-cookie").expect("a cookie"))
    }

    /// Asks until the answer is no 503.
    pub fn until_up(&self, path: &str, cookie: &str) -> Answer {
        until(|| Some(self.get(path).cookie(cookie).send()).filter(|answer| answer.status != 503))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(folder: &Path, store: &str) -> (Child, String) {
    let mut process = binary(folder)
        .env("LEPTOS_SITE_ADDR", "127.0.0.1:0")
        .env("SESSION_STORE", store)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let out = process.stdout.take().expect("piped");
    let url = BufReader::new(out)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.find("http://").map(|at| line[at..].to_owned()))
        .expect("the server says where it serves");
    (process, url)
}

fn signal(process: &Child, name: &str) {
    let id = process.id().to_string();
    let status = Command::new("kill").args(["-s", name, &id]).status();
    assert!(status.expect("kill runs").success());
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn until<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < give_up, "waited {PATIENCE:?} in vain");
        std::thread::yield_now();
    }
}

/// The `name=value` of a Set-Cookie.
pub fn cookie_of(set_cookie: &str) -> String {
    set_cookie.split(';').next().unwrap_or_default().to_owned()
}

pub struct Request {
    builder: http::request::Builder,
    body: String,
}

impl Request {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }

    /// An empty cookie is none.
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

    pub fn send(self) -> Answer {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        let request = self.builder.body(self.body).expect("a request");
        let mut response = agent.run(request).expect("an answer");
        let mut body = Vec::new();
        response
            .body_mut()
            .as_reader()
            .read_to_end(&mut body)
            .expect("a body");
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }
}

pub struct Answer {
    pub status: u16,
    headers: http::HeaderMap,
    pub body: String,
}

impl Answer {
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

    /// The large number on the page.
    pub fn visits(&self) -> u64 {
        let (_, rest) = self.body.split_once("class=\"number\">").expect("a number");
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    }
}
