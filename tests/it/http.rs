//! The wire protocols: HTTP/1.1, HTTP/2, WebSockets, and the headers that proxies add.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::support::{self, DEADLINE, Engine, Server, console, cookie_of, until};
use tungstenite::{Message, client::IntoClientRequest};

/// Opens a connection, and sends bytes on it.
fn begin(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    stream.write_all(bytes).expect("sent");
    stream
}

/// Reads everything that the server sends before it closes the connection.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // The server's system resets the connection if the server has not read everything.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => _ = other.expect("the connection ends"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn http_2_works_by_prior_knowledge() {
    let server = Server::start(Engine::Memory);
    let cookie = server.new_session();
    let stream = tokio::net::TcpStream::connect(server.address()).await;
    let (client, connection) = h2::client::handshake(stream.expect("connected"))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    for visits in 2..5 {
        let request = http::Request::post(server.url("/api/visit"))
            // HTTP/2 clients may split the header.
            .header("cookie", "a=b")
            .header("cookie", &cookie)
            .body(())
            .expect("a request");
        let (response, _) = client.send_request(request, true).expect("sent");
        let response = response.await.expect("a response");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers().get("connection"), None);
        let mut body = response.into_body();
        let data = body.data().await.expect("a body").expect("whole");
        let text = std::str::from_utf8(&data).expect("text");
        assert_eq!(support::count_in(text), Some(visits));
    }
}

#[test]
fn a_connection_without_a_request_is_ended() {
    let server = Server::start_as(Engine::Memory, |setup| {
        setup.set("TALLY_KEEP_ALIVE_TIMEOUT", "1")
    });
    let beginnings: [&[u8]; 5] = [
        b"",
        b"GET / HT",
        b"P",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        // An HTTP/2 connection without a request.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ];
    let kept = begin(&server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    for begun in beginnings.map(|bytes| begin(&server, bytes)) {
        rest(begun);
    }
    assert!(rest(kept).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_request_needs_a_host() {
    let server = Server::start(Engine::Memory);
    let no_host = begin(&server, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(rest(no_host).starts_with("HTTP/1.1 400"));
    let old = begin(&server, b"GET /health HTTP/1.0\r\n\r\n");
    assert!(rest(old).starts_with("HTTP/1.0 200"));
    for codings in ["br", "BR", "gzip;q=0.5, Br"] {
        let icon = server.get("/icon.svg").header("accept-encoding", codings);
        // A debug build serves the files uncompressed.
        let expected = std::env::var_os("TALLY_BINARY").map(|_| "br");
        assert_eq!(
            icon.send().header("content-encoding"),
            expected,
            "{codings}"
        );
    }
}

#[test]
fn only_this_site_can_open_a_web_socket() {
    let server = Server::probe(Engine::Memory);
    let url = format!("ws://{}/probe/echo", server.address());
    let from = |origin: &str| {
        let mut request = url.as_str().into_client_request().expect("a request");
        let origin = origin.parse().expect("a value");
        request.headers_mut().insert("origin", origin);
        tungstenite::connect(request)
    };
    let (mut socket, _) = from(&server.url("")).expect("opened");
    for said in ["one", "two"] {
        socket.send(Message::text(said)).expect("sent");
        assert_eq!(socket.read().expect("repeated"), Message::text(said));
    }
    let refused = from("http://evil.example").expect_err("refused");
    assert!(refused.to_string().contains("403"), "{refused}");
}

#[test]
fn a_trusted_proxy_reports_address_and_scheme() {
    let server = Server::start_as(Engine::Memory, |setup| {
        setup
            .set("TALLY_TRUSTED_PROXIES", "127.0.0.1")
            .set("TALLY_ALLOWED_HOSTS", "shop.example,127.0.0.1")
            .set("TALLY_HSTS_AGE", "60")
    });
    let proxied: [&[(&str, &str)]; 2] = [
        &[
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example, inner"),
        ],
        &[("forwarded", "for=192.0.2.7;proto=https;host=shop.example")],
    ];
    for headers in proxied {
        let with = |method, path, origin: &str| {
            let request = server.request(method, path).header("origin", origin);
            let headers = headers.iter();
            headers.fold(request, |request, (name, value)| {
                request.header(name, value)
            })
        };
        let page = with("GET", "/", "https://shop.example").send();
        assert_eq!(page.status, 200);
        let set = page.header("set-cookie").expect("a cookie");
        assert!(set.contains("; Secure"), "{set}");
        assert!(page.header("strict-transport-security").is_some());
        let cookie = cookie_of(set);
        for (origin, status) in [
            ("https://shop.example", 200),
            ("https://shop.example:443", 200),
            ("https://shop.example:8443", 403),
            ("http://evil.example", 403),
        ] {
            let visit = with("POST", "/api/visit", origin).cookie(&cookie).send();
            assert_eq!(visit.status, status, "{origin}");
        }
    }
    let plain = server.get("/").header("x-forwarded-proto", "http").send();
    assert!(
        !plain
            .header("set-cookie")
            .expect("a cookie")
            .contains("Secure")
    );
    assert!(plain.header("strict-transport-security").is_none());
    let other = server.get("/").header("x-forwarded-host", "evil.example");
    assert_eq!(other.send().status, 421);
}

#[test]
fn forwarded_headers_from_anyone_else_are_ignored() {
    let server = Server::start_as(Engine::Memory, |setup| {
        setup.set("TALLY_TRUSTED_PROXIES", "192.0.2.1")
    });
    let page = server
        .get("/")
        .header("x-forwarded-proto", "https")
        .header("forwarded", "proto=https;host=shop.example")
        .send();
    let set = page.header("set-cookie").expect("a cookie");
    assert!(!set.contains("Secure"), "{set}");
    let visit = server
        .post("/api/visit")
        .header("origin", "https://shop.example")
        .header("x-forwarded-host", "shop.example")
        .send();
    assert_eq!(visit.status, 403);
}

#[test]
fn a_body_that_is_far_too_large_gets_its_response() {
    let server = Server::start(Engine::Memory);
    let size = 5 * 1_024 * 1_024;
    let head =
        format!("POST /api/draft HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n");
    let mut stream = begin(&server, head.as_bytes());
    // Many clients read nothing until they have sent everything.
    stream.write_all(&vec![b'x'; size]).expect("taken");
    let response = rest(stream).to_lowercase();
    assert!(response.starts_with("http/1.1 413"), "{response}");
    assert!(response.contains("connection: close"), "{response}");
    assert!(response.contains("body is too large"), "{response}");
}

#[test]
fn a_handler_that_times_out_writes_nothing() {
    let server = Server::start_as(Engine::Redis, |setup| {
        setup.probe().set("TALLY_REQUEST_TIMEOUT", "1")
    });
    let cookie = server.new_session();
    let slow = server.post("/probe/write-and-hang").cookie(&cookie).send();
    assert_eq!(slow.status, 503);
    assert!(slow.header("retry-after").is_some());
    assert_eq!(slow.header("set-cookie"), None);
    assert_eq!(server.stored_visits(&cookie), 1);
    // A session that the timed-out request has created is gone, too.
    let slow = server.post("/probe/write-and-hang").send();
    assert_eq!((slow.status, slow.header("set-cookie")), (503, None));
    let sessions = server.backend().ask(&["keys", "tally:*"]);
    assert_eq!(sessions.lines().count(), 1, "{sessions}");
}

#[test]
fn a_client_that_disconnects_leaves_nothing_behind() {
    let server = Server::start_as(Engine::Redis, |setup| setup.probe());
    let cookie = server.new_session();
    let request = format!(
        "POST /probe/write-and-hang HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nContent-Length: 0\r\n\r\n"
    );
    let stream = begin(&server, request.as_bytes());
    until(|| (server.stored_visits(&cookie) == 2).then_some(()));
    drop(stream);
    until(|| (server.stored_visits(&cookie) == 1).then_some(()));
}

#[test]
fn a_handler_parked_in_a_change_blocks_nobody() {
    let server = Server::start_as(Engine::Redis, |setup| setup.probe());
    let cookie = server.new_session();
    let request = format!(
        "POST /probe/park HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nContent-Length: 0\r\n\r\n"
    );
    let parked = begin(&server, request.as_bytes());
    until(|| (server.get("/probe/waiting").send().body == "1").then_some(()));
    let visits = server.visit(&cookie);
    assert!((2..=3).contains(&visits), "{visits}");
    drop(parked);
}

#[test]
fn the_log_has_the_message_of_a_panic() {
    // The probe is a debug build.
    let server = Server::probe(Engine::Memory);
    assert_eq!(server.post("/probe/panic").send().status, 500);
    let log = server.log();
    assert!(log.contains("requested by a test"), "{log}");
}

#[test]
fn the_console_refuses_other_methods() {
    let server = Server::start_as(Engine::Memory, console::with_console);
    for method in ["PUT", "DELETE", "PATCH"] {
        for path in ["/admin", "/admin/sessions"] {
            let refused = server.request(method, path).send();
            assert_eq!(refused.status, 405, "{method} {path}");
            assert_eq!(refused.header("allow"), Some("GET, HEAD, POST"));
        }
    }
    assert_eq!(server.request("HEAD", "/admin").send().status, 200);
}

/// The time-out of a slow body applies to HTTP/2 as it does to HTTP/1.
#[tokio::test]
async fn a_slow_http_2_body_is_408() {
    let server = Server::start_as(Engine::Memory, |setup| {
        setup.set("TALLY_REQUEST_TIMEOUT", "1")
    });
    let stream = tokio::net::TcpStream::connect(server.address()).await;
    let (client, connection) = h2::client::handshake(stream.expect("connected"))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    let request = http::Request::post(server.url("/api/draft")).body(());
    let (response, mut body) = client
        .send_request(request.expect("a request"), false)
        .expect("sent");
    body.send_data("draft=".into(), false).expect("sent");
    let response = tokio::time::timeout(Duration::from_secs(30), response).await;
    assert_eq!(
        response.expect("in time").expect("a response").status(),
        408
    );
}

#[test]
fn the_binary_contains_no_unused_file() {
    let server = Server::start(Engine::Memory);
    let unknown = server.get("/pkg/unknown.js").send();
    for path in ["/pkg/tally.d.ts", "/pkg/tally_bg.wasm.d.ts"] {
        let response = server.get(path).send();
        assert_eq!(response.status, unknown.status, "{path}");
        assert_eq!(
            response.header("content-type"),
            unknown.header("content-type"),
            "{path}"
        );
    }
    assert_eq!(unknown.status, 404);
}
