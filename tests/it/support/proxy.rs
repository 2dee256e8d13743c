//! A proxy between a server and its store, which simulates faults of the network.
//!
//! It can cut connections at random, before or after a delivery. It can hold back subscriptions, fall silent on open
//! connections, and lead new connections to another store.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread,
};

use super::until;

/// A running proxy. It stops accepting connections when it is dropped.
pub struct Proxy {
    pub port: u16,
    /// The number of connections cut so far.
    pub cuts: Arc<AtomicU64>,
    /// The proxy cuts connections only while this is set.
    pub cutting: Arc<AtomicBool>,
    /// The proxy holds back subscriptions while this is set.
    pub holding: Arc<AtomicBool>,
    /// The number of subscriptions that are held back.
    pub held: Arc<AtomicU64>,
    /// The port that new connections lead to.
    upstream: Arc<AtomicU16>,
    /// The proxy is silent on the connections up to this number.
    silent: Arc<AtomicU64>,
    /// The number of the newest connection.
    newest: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
}

impl Proxy {
    /// Stops forwarding on all open connections without closing them, as if the peer had vanished or a firewall had
    /// dropped its state. New connections work.
    pub fn fall_silent(&self) {
        let newest = self.newest.load(Ordering::SeqCst);
        self.silent.store(newest, Ordering::SeqCst);
    }

    /// Leads new connections to another store. Open connections stay where they are.
    pub fn switch_to(&self, upstream: u16) {
        self.upstream.store(upstream, Ordering::SeqCst);
    }

    /// Starts a proxy to the port `upstream`. While it cuts, it cuts at about one of `every` chunks.
    pub fn start(upstream: u16, every: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let proxy = Self {
            port: listener.local_addr().expect("an address").port(),
            cuts: Arc::default(),
            cutting: Arc::default(),
            holding: Arc::default(),
            held: Arc::default(),
            upstream: Arc::new(AtomicU16::new(upstream)),
            silent: Arc::default(),
            newest: Arc::default(),
            stopped: Arc::default(),
        };
        let upstream = Arc::clone(&proxy.upstream);
        let (silent, newest) = (Arc::clone(&proxy.silent), Arc::clone(&proxy.newest));
        let (holding, held) = (Arc::clone(&proxy.holding), Arc::clone(&proxy.held));
        let (cuts, cutting) = (Arc::clone(&proxy.cuts), Arc::clone(&proxy.cutting));
        let stopped = Arc::clone(&proxy.stopped);
        thread::spawn(move || {
            for (number, client) in (1..).zip(listener.incoming()) {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let upstream = upstream.load(Ordering::SeqCst);
                let (Ok(client), Ok(server)) =
                    (client, TcpStream::connect(("127.0.0.1", upstream)))
                else {
                    continue;
                };
                newest.store(number, Ordering::SeqCst);
                let cutter = Cutter {
                    number,
                    silent: Arc::clone(&silent),
                    random: 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(number),
                    every,
                    cuts: Arc::clone(&cuts),
                    cutting: Arc::clone(&cutting),
                    holding: Arc::clone(&holding),
                    held: Arc::clone(&held),
                };
                pass_both_ways(client, server, cutter);
            }
        });
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Decides when to cut a connection, and whether before or after a delivery. The sequence is the same in each run.
struct Cutter {
    number: u64,
    silent: Arc<AtomicU64>,
    random: u64,
    every: u64,
    cuts: Arc<AtomicU64>,
    cutting: Arc<AtomicBool>,
    holding: Arc<AtomicBool>,
    held: Arc<AtomicU64>,
}

enum Cut {
    Not,
    Before,
    After,
}

impl Cutter {
    fn is_silent(&self) -> bool {
        self.number <= self.silent.load(Ordering::SeqCst)
    }

    fn hold(&self, chunk: &[u8]) {
        let word = b"SUBSCRIBE";
        if !chunk.windows(word.len()).any(|part| part == word) {
            return;
        }
        self.held.fetch_add(1, Ordering::SeqCst);
        until(|| (!self.holding.load(Ordering::SeqCst)).then_some(()));
        self.held.fetch_sub(1, Ordering::SeqCst);
    }

    fn next(&mut self) -> Cut {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if !self.cutting.load(Ordering::SeqCst) || !self.random.is_multiple_of(self.every) {
            return Cut::Not;
        }
        self.cuts.fetch_add(1, Ordering::SeqCst);
        if self.random & 0x100 == 0 {
            Cut::Before
        } else {
            Cut::After
        }
    }
}

fn pass_both_ways(client: TcpStream, server: TcpStream, cutter: Cutter) {
    let back = (
        server.try_clone().expect("a socket"),
        client.try_clone().expect("a socket"),
    );
    let quiet = Cutter {
        number: cutter.number,
        silent: Arc::clone(&cutter.silent),
        random: 1,
        every: u64::MAX,
        cuts: Arc::default(),
        cutting: Arc::default(),
        holding: Arc::default(),
        held: Arc::default(),
    };
    thread::spawn(move || pass(client, server, cutter));
    thread::spawn(move || pass(back.0, back.1, quiet));
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut cutter: Cutter) {
    let mut buffer = [0; 16_384];
    while let Ok(size) = from.read(&mut buffer) {
        if size > 0 && cutter.is_silent() {
            continue;
        }
        cutter.hold(&buffer[..size]);
        let cut = cutter.next();
        if size == 0 || matches!(cut, Cut::Before) || to.write_all(&buffer[..size]).is_err() {
            break;
        }
        if matches!(cut, Cut::After) {
            // The chunk is delivered, but no response may come back.
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
