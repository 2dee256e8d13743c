//! A small load balancer, configured as an operator would.
//!
//! It probes the readiness of each server and opens a new connection for each request. If a server refuses the
//! connection, it tries the next one. It never sends a request twice. A server that breaks off a request gets no more
//! requests until a probe succeeds.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// How often each server's readiness is probed.
const INTERVAL: Duration = Duration::from_millis(20);

/// A running load balancer. It stops accepting connections when it is dropped.
pub struct Balancer {
    pub url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    servers: Mutex<Vec<Upstream>>,
    turn: AtomicUsize,
    stopped: AtomicBool,
}

#[derive(Clone)]
struct Upstream {
    address: String,
    is_ready: bool,
    /// The number of requests that the server has broken off.
    broken: u64,
}

impl Balancer {
    pub fn start(servers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared::default());
        let balancer = Self {
            url,
            shared: Arc::clone(&shared),
        };
        balancer.send_to(servers);
        let prober = Arc::clone(&shared);
        thread::spawn(move || {
            while !prober.stopped.load(Ordering::SeqCst) {
                prober.probe_all();
                thread::park_timeout(INTERVAL);
            }
        });
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || _ = shared.pass(client));
            }
        });
        balancer
    }

    /// Replaces the servers.
    pub fn send_to(&self, servers: Vec<String>) {
        let upstream = |address| Upstream {
            address,
            is_ready: true,
            broken: 0,
        };
        let servers = servers.into_iter().map(upstream).collect();
        *self.shared.servers.lock().expect("not poisoned") = servers;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.url["http://".len()..]);
    }
}

impl Shared {
    fn probe_all(&self) {
        let servers = self.servers.lock().expect("not poisoned").clone();
        for server in servers {
            let is_ready = is_ready(&server.address).unwrap_or(false);
            self.change(&server.address, |known| {
                // A probe that began before the server broke off a request is out of date.
                if known.broken == server.broken {
                    known.is_ready = is_ready;
                }
            });
        }
    }

    fn change(&self, address: &str, change: impl FnOnce(&mut Upstream)) {
        let mut servers = self.servers.lock().expect("not poisoned");
        let known = servers.iter_mut().find(|server| server.address == address);
        known.map(change);
    }

    /// Forwards one request, and returns its response to the client.
    fn pass(&self, mut client: TcpStream) -> io::Result<()> {
        let request = read_request(&mut client)?;
        let Some((address, mut server)) = self.connect() else {
            return client.write_all(&refusal("503 Service Unavailable"));
        };
        let mut response = Vec::new();
        let passed = server
            .write_all(&request)
            .and_then(|()| server.read_to_end(&mut response));
        if passed.is_err() || response.is_empty() {
            self.change(&address, |known| {
                known.is_ready = false;
                known.broken += 1;
            });
            return client.write_all(&refusal("502 Bad Gateway"));
        }
        client.write_all(&response)?;
        client.shutdown(Shutdown::Write)
    }

    /// Connects to the next server that is ready. If none is, connects to any server that accepts.
    fn connect(&self) -> Option<(String, TcpStream)> {
        let servers = self.servers.lock().expect("not poisoned").clone();
        let mut ready: Vec<_> = servers.iter().filter(|server| server.is_ready).collect();
        if ready.is_empty() {
            ready = servers.iter().collect();
        }
        let turn = self.turn.fetch_add(1, Ordering::SeqCst);
        (0..ready.len()).find_map(|offset| {
            let address = &ready[(turn + offset) % ready.len()].address;
            let server = TcpStream::connect(address).ok()?;
            Some((address.clone(), server))
        })
    }
}

fn refusal(status: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

fn is_ready(server: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect(server)?;
    stream
        .write_all(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response.starts_with("HTTP/1.1 200"))
}

/// Reads a request with its body, and adds `Connection: close`, because each request has its own connection.
fn read_request(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0; 4_096];
    let head = loop {
        if let Some(at) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        match client.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            size => request.extend_from_slice(&buffer[..size]),
        }
    };
    let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0);
    while request.len() < head + length {
        match client.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            size => request.extend_from_slice(&buffer[..size]),
        }
    }
    let close = b"connection: close\r\n";
    request.splice(head - 2..head - 2, close.iter().copied());
    Ok(request)
}
