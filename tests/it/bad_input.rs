//! Malformed and slow requests break nothing, and keep no other client from being served.
//!
//! `make test` sends 20,000 generated requests, and `make soak` sends a million.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use crate::support::{Engine, Server, count_in, until};

/// A fixed sequence of pseudorandom numbers, so that a failure can be reproduced.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most as u64).expect("it fits")
    }

    fn pick<'a>(&mut self, choices: &[&'a [u8]]) -> &'a [u8] {
        choices[self.below(choices.len())]
    }

    /// Up to `most` bytes of any kind.
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let size = self.below(most + 1);
        (0..size).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// Usually bytes that are valid in a header.
    fn header(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = self.bytes(most);
        if self.below(20) != 0 {
            bytes.retain(|byte| *byte >= 32 && *byte != 127);
        }
        bytes
    }

    fn cookie(&mut self) -> Vec<u8> {
        let name = self.pick(&[
            b"sessionid",
            b"sessionid",
            b"sessionid",
            b"other",
            b"",
            b"sessionid ",
            b"SESSIONID",
        ]);
        let value = match self.below(8) {
            0 => format!("{:016x}{:016x}", self.next(), self.next()).into_bytes(),
            1 => format!("\"{:016x}{:016x}\"", self.next(), self.next()).into_bytes(),
            2 => vec![b'a'; self.below(12_000)],
            3 => b"../../../etc/passwd".to_vec(),
            4 => "\u{fc}\u{20ac}".as_bytes().to_vec(),
            _ => self.header(40),
        };
        let between = self.pick(&[b"=", b"=", b"=", b"", b"==", b" = "]);
        [name, between, &value].concat()
    }

    fn target(&mut self) -> Vec<u8> {
        let path = self.pick(&[
            b"/",
            b"/about",
            b"/reset",
            b"/api/visit",
            b"/api/draft",
            b"/api/theme",
            b"/api/",
            b"/live",
            b"/pkg/",
            b"/pkg/tally.js",
            b"/health/ready",
            b"/nowhere",
            b"//",
            b"/%",
            b"/%00",
            b"/..",
            b"*",
            b"http://x/",
            b"/api/visit/",
            b"/?",
        ]);
        let mut target = path.to_vec();
        match self.below(6) {
            0 => target.extend(self.header(60)),
            1 => target.extend(b"?__err=%ff&__path=%2f&a=%".iter()),
            2 => target.extend(std::iter::repeat_n(b'a', self.below(9_000))),
            _ => {}
        }
        target.retain(|byte| !b" \r\n".contains(byte) || self.next().is_multiple_of(50));
        target
    }

    fn body(&mut self) -> Vec<u8> {
        match self.below(7) {
            0 => self.bytes(300),
            1 => b"theme=dark".to_vec(),
            2 => b"theme=%ff%fe&theme[]=1&theme[a][b]=2".to_vec(),
            3 => format!("draft={}", "%f0%9f%92%a9".repeat(self.below(300))).into_bytes(),
            4 => b"{\"draft\":[[[[[[[[[[".to_vec(),
            5 => std::iter::repeat_n(b"draft[".as_slice(), self.below(2_000))
                .flatten()
                .copied()
                .collect(),
            _ => Vec::new(),
        }
    }

    /// A request, and whether its body is as long as its head announces.
    fn request(&mut self) -> (Vec<u8>, bool) {
        let method = self.pick(&[
            b"GET", b"GET", b"POST", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE",
            b"CONNECT", b"get", b"",
        ]);
        let mut request = [
            method,
            b" ",
            &self.target(),
            b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n",
        ]
        .concat();
        for _ in 0..self.below(4) {
            request.extend(b"Cookie: ");
            request.extend(self.cookie());
            request.extend(self.pick(&[b"", b"; ", b";;;", b";"]));
            request.extend(self.cookie());
            request.extend(b"\r\n");
        }
        for _ in 0..self.below(5) {
            let name = self.pick(&[
                b"Accept",
                b"Content-Type",
                b"Referer",
                b"Origin",
                b"Sec-Fetch-Site",
                b"Purpose",
                b"Range",
                b"If-None-Match",
                b"Accept-Encoding",
                b"X-Forwarded-For",
                b"X-Request-Id",
                b"Upgrade",
                b"Expect",
                b"Te",
                b"X-",
            ]);
            let known = self.pick(&[
                b"text/html",
                b"application/json",
                b"multipart/form-data; boundary=",
                b"http://localhost/about?",
                b"bytes=0-,5-1",
                b"none",
                b"prefetch",
                b"br;q=9, gzip;q=-1, *",
                b"application/x-www-form-urlencoded",
                b"websocket",
            ]);
            let value = if self.below(2) == 0 {
                known.to_vec()
            } else {
                self.header(80)
            };
            request.extend([name, b": ", &value, b"\r\n"].concat());
        }
        let body = self.body();
        let length = self.below(6);
        match length {
            0 => request.extend(b"Transfer-Encoding: chunked\r\n\r\n"),
            1 => request.extend(b"Content-Length: 9999999999999999999999\r\n\r\n"),
            2 => request.extend(b"\r\n"),
            _ => request.extend(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes()),
        }
        request.extend(body);
        (request, length > 1)
    }
}

/// Sends a request and returns the status of the response, or 0 if the connection closes without one. A request that
/// is shorter than announced must close its half of the connection, or the server would wait for more.
fn status_of(address: &str, request: &[u8], ends: bool) -> u16 {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    let mut response = Vec::new();
    // The server may close the connection before it has read everything.
    let _ = stream.write_all(request);
    if !ends {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let _ = stream.read_to_end(&mut response);
    let response = String::from_utf8_lossy(&response);
    let line = response.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
    line.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

#[test]
fn generated_requests_break_nothing() {
    let times = std::env::var("TALLY_SOAK").map_or(1, |_| 50);
    let requests = 20_000 * times;
    let server = Server::start(Engine::Redis);
    let address = server.address();
    let send = |seed: u64, requests: u64| {
        let mut statuses = BTreeMap::<u16, u64>::new();
        let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (seed << 32 | seed));
        for _ in 0..requests {
            let (request, ends) = random.request();
            let status = status_of(&address, &request, ends);
            // The server resets a connection whose request it has not read to the end, and the response may get lost.
            assert!(
                status == 0 || (200..500).contains(&status),
                "{status}: {}",
                String::from_utf8_lossy(&request)
            );
            *statuses.entry(status).or_default() += 1;
        }
        statuses
    };
    // The first requests make the server allocate everything that it keeps forever.
    send(99, 5_000);
    let before = server.resident_bytes();
    let all = thread::scope(|scope| {
        let senders: Vec<_> = (0..4)
            .map(|seed| scope.spawn(move || send(seed + 1, requests / 4)))
            .collect();
        let mut all = BTreeMap::<u16, u64>::new();
        for sender in senders {
            for (status, number) in sender.join().expect("no panic") {
                *all.entry(status).or_default() += number;
            }
        }
        all
    });
    let grown = server.resident_bytes().saturating_sub(before) / 1_024;
    eprintln!(
        "{requests} generated requests: responses by status {all:?}, {grown} KiB more memory"
    );
    for status in [200, 400, 403, 404, 405, 431] {
        assert!(all.contains_key(&status), "no {status} among {all:?}");
    }
    let without_response = all.get(&0).copied().unwrap_or(0);
    assert!(without_response < requests / 10, "{all:?}");
    assert!(grown < 16 * 1_024, "{grown} KiB");
    assert!(!server.log().contains("panicked"));
    assert_eq!(server.get("/health/ready").send().status, 200);
}

/// Opens a connection, and sends the beginning of a request.
fn begin(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).expect("connected");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    stream.write_all(bytes).expect("sent");
    stream
}

#[test]
fn slow_clients_are_disconnected_and_block_nobody() {
    let server = Server::start_as(Engine::Redis, |setup| {
        setup.set("TALLY_REQUEST_TIMEOUT", "6")
    });
    let cookie = server.new_session();
    let mut heads: Vec<_> = (0..200)
        .map(|_| begin(&server, b"GET / HTTP/1.1\r\nHo"))
        .collect();
    let body = b"POST /api/draft HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400\r\n\r\ndraft=";
    let mut bodies: Vec<_> = (0..200).map(|_| begin(&server, body)).collect();
    for (visits, byte) in (2..).zip(b"st: localhost") {
        for stream in &mut heads {
            stream.write_all(&[*byte]).expect("sent");
        }
        for stream in &mut bodies {
            // After the time-out, the server reads no more.
            let _ = stream.write_all(b"x");
        }
        assert_eq!(server.visit(&cookie), visits);
    }
    for stream in &mut bodies {
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("set");
        let mut response = [0; 12];
        stream.read_exact(&mut response).expect("a response");
        assert_eq!(&response, b"HTTP/1.1 408");
    }
    // A head that is complete in the end gets a response.
    for stream in &mut heads {
        stream
            .write_all(b"\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut response = [0; 12];
        stream.read_exact(&mut response).expect("a response");
        assert_eq!(&response, b"HTTP/1.1 200");
    }
}

#[test]
#[cfg_attr(not(feature = "soak"), ignore = "measures memory: make soak")]
fn ten_thousand_idle_connections_use_little_memory() {
    // Each connection takes a file descriptor in the test and another one in the server.
    let server = Server::start(Engine::Redis);
    let cookie = server.new_session();
    let before = server.resident_bytes();
    let idle: Vec<_> = (0..10_000).map(|_| begin(&server, b"")).collect();
    let used = begin(&server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    until(|| (server.metric("tally_connections") >= 10_001.0).then_some(()));
    for visits in 2..102 {
        assert_eq!(server.visit(&cookie), visits);
    }
    let each = server.resident_bytes().saturating_sub(before) / idle.len() as u64;
    eprintln!("{} idle connections: {each} bytes each", idle.len());
    assert!(each < 20 * 1_024);
    drop((idle, used));
    until(|| (server.metric("tally_connections") < 100.0).then_some(()));
}

#[test]
fn a_body_over_the_limit_is_413_with_or_without_a_length() {
    let server = Server::start_as(Engine::Memory, |setup| {
        setup.set("TALLY_BODY_LIMIT", "1000")
    });
    let cookie = server.new_session();
    let head = format!(
        "POST /api/draft HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nContent-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n"
    );
    let announced = format!("{head}Content-Length: 1001\r\n\r\n{}", "x".repeat(1_001));
    let chunk = format!("{:x}\r\n{}\r\n", 500, "x".repeat(500));
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(3)
    );
    let fits = format!("{head}Transfer-Encoding: chunked\r\n\r\n7\r\ndraft=x\r\n0\r\n\r\n");
    let broken = format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n");
    let address = server.address();
    assert_eq!(status_of(&address, announced.as_bytes(), true), 413);
    assert_eq!(status_of(&address, chunked.as_bytes(), true), 413);
    assert_eq!(status_of(&address, fits.as_bytes(), true), 200);
    assert_eq!(status_of(&address, broken.as_bytes(), true), 400);
}

#[test]
fn pipelined_requests_get_responses_in_order() {
    let server = Server::start(Engine::Memory);
    let cookie = server.new_session();
    let visit = format!(
        "POST /api/visit HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nContent-Length: 0\r\n\r\n"
    );
    let mut stream = begin(&server, visit.repeat(50).as_bytes());
    stream.write_all(b"GET / HTTP/9.9\r\n\r\n").expect("sent");
    let mut responses = String::new();
    stream.read_to_string(&mut responses).expect("a response");
    let numbers: Vec<u64> = responses
        .split("\r\n\r\n")
        .filter_map(|part| count_in(part.split("HTTP/1.1").next()?))
        .collect();
    assert_eq!(numbers, (2..52).collect::<Vec<_>>());
    assert_eq!(responses.matches("HTTP/1.1 200").count(), 50);
    assert!(responses.contains("HTTP/1.1 400"), "{responses}");
    for malformed in [
        "GET / HTTP/1.1\r\nHost localhost\r\n\r\n".to_owned(),
        "GET /\r\n\r\n".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
        format!(
            "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
            "x".repeat(40_000)
        ),
        format!(
            "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
            "X: x\r\n".repeat(500)
        ),
        "POST /api/visit HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"
            .to_owned(),
    ] {
        let status = status_of(&server.address(), malformed.as_bytes(), true);
        assert!((400..500).contains(&status), "{status}: {malformed:?}");
    }
    assert_eq!(server.visit(&cookie), 52);
}
