//! What an operator sees: health, metrics, logs, request ids, and how a server stops.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    thread,
};

use crate::support::{Backend, Engine, Server, binary, cookie_of, get, until};
use serde_json::Value;

#[test]
fn health_distinguishes_the_process_from_the_store() {
    let server = Server::start(Engine::Redis);
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(server.get(path).send().status, 200, "{path}");
    }
    for (spoil, mend) in [("STOP", "CONT"), ("kill", "start")] {
        match spoil {
            "kill" => server.backend().kill(),
            signal => server.backend().signal(signal),
        }
        let ready = until(|| {
            let response = server.get("/health/ready").send();
            (response.status == 503).then_some(response)
        });
        assert_eq!(ready.body, "unreachable\n");
        assert_eq!(server.get("/health/live").send().status, 200);
        match mend {
            "start" => server.backend().start_again(),
            signal => server.backend().signal(signal),
        }
        until(|| (server.get("/health/ready").send().status == 200).then_some(()));
    }
}

#[test]
fn metrics_count_events_and_identify_nobody() {
    let server = Server::start(Engine::Redis);
    let cookie = server.new_session();
    for _ in 0..5 {
        server.visit(&cookie);
    }
    server.get("/about").cookie(&cookie).send();
    server.get(&format!("/nowhere/{cookie}")).send();
    for (name, expected) in [
        ("tally_requests_total{route=\"/\",status=\"200\"}", 1.0),
        (
            "tally_requests_total{route=\"/api/visit\",status=\"200\"}",
            5.0,
        ),
        ("tally_requests_total{route=\"other\",status=\"404\"}", 1.0),
        ("tally_request_seconds_count{route=\"/api/visit\"}", 5.0),
        ("tally_sessions_created_total", 1.0),
        ("tally_sessions_conflicts_total", 0.0),
        ("tally_store_seconds_count{operation=\"create\"}", 1.0),
        (
            "tally_store_seconds_bucket{le=\"+Inf\",operation=\"create\"}",
            1.0,
        ),
        ("tally_store_errors_total", 0.0),
        ("tally_live_streams", 0.0),
    ] {
        assert_eq!(server.metric(name), expected, "{name}");
    }
    assert!(server.metric("tally_store_seconds_count{operation=\"save\"}") >= 5.0);
    assert!(server.metric("tally_connections") >= 1.0);
    let other = server.beside();
    other.visit(&cookie);
    server.visit(&cookie);
    assert_eq!(server.metric("tally_sessions_conflicts_total"), 1.0);
    let forgotten = server.post("/api/delete").cookie(&cookie).send();
    assert_eq!(forgotten.status, 200);
    assert_eq!(server.metric("tally_sessions_flushed_total"), 1.0);
    let shown = get(server.metrics_url());
    assert!(shown.body.ends_with("# EOF\n"));
    let (_, id) = cookie.split_once('=').expect("a pair");
    assert!(!shown.body.contains(id));
    // The site doesn't serve the metrics, and the metrics' address serves nothing else.
    assert_eq!(server.get("/metrics").send().status, 404);
    let elsewhere = server.metrics_url().replace("/metrics", "/");
    assert_eq!(get(&elsewhere).status, 404);
}

#[test]
fn the_json_log_has_a_line_per_request_and_no_secrets() {
    let mut server = Server::start_as(Engine::Redis, |setup| {
        setup
            .set("TALLY_LOG", "debug")
            .set("TALLY_LOG_FORMAT", "json")
            .set("TALLY_TRUSTED_PROXIES", "127.0.0.0/8")
    });
    let first = server
        .get("/?secret-query")
        .header("x-request-id", "proxy-1")
        .send();
    assert_eq!(first.header("x-request-id"), Some("proxy-1"));
    let cookie = cookie_of(first.header("set-cookie").expect("a cookie"));
    let call = server
        .post("/api/draft")
        .cookie(&cookie)
        .body("draft=secret-value")
        .send();
    let id = call.header("x-request-id").expect("an id").to_owned();
    server.backend().stop();
    let failed = server.get("/about").cookie(&cookie).send();
    assert_eq!(failed.status, 503);
    let failed = failed.header("x-request-id").expect("an id").to_owned();
    server.stop("TERM");
    let log = server.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let of = |id: &str| -> Vec<&Value> { lines.iter().filter(|line| line["id"] == id).collect() };
    let has_line = |id: &str, status: u64, path: &str| {
        of(id)
            .iter()
            .any(|line| line["status"] == status && line["path"] == format!("\"{path}\""))
    };
    assert!(has_line("proxy-1", 200, "/"), "{log}");
    assert!(has_line(&id, 200, "/api/draft"), "{log}");
    assert!(has_line(&failed, 503, "/about"), "{log}");
    // The log has the cause of the failure under the same id.
    let why = of(&failed);
    assert!(
        why.iter().any(|line| line["error"]
            .as_str()
            .is_some_and(|it| it.contains("store"))),
        "{log}"
    );
    let (_, secret) = cookie.split_once('=').expect("a pair");
    for secret in [secret, "secret-query", "secret-value"] {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[test]
fn only_a_trusted_proxy_names_a_request() {
    let server = Server::start(Engine::Memory);
    let responses: Vec<_> = (0..2)
        .map(|_| server.get("/health").header("x-request-id", "mine").send())
        .collect();
    let ids: Vec<_> = responses
        .iter()
        .map(|response| response.header("x-request-id").expect("an id"))
        .collect();
    assert_ne!(ids[0], "mine");
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_draining_server_is_unready_and_finishes_open_requests() {
    let mut server = Server::start_as(Engine::Memory, |setup| setup.set("TALLY_DRAIN_DELAY", "3"));
    let cookie = server.new_session();
    let ended = thread::scope(|scope| {
        let address = server.address();
        let url = server.url("");
        let cookie = &cookie;
        let watching = scope.spawn(move || {
            let ready = until(|| {
                let response = get(&format!("{url}/health/ready"));
                (response.status == 503).then_some(response)
            });
            assert_eq!(ready.body, "stopping\n");
            // A new request still gets a response, but the server closes the connection after it.
            let mut stream = TcpStream::connect(address).expect("connected");
            let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("sent");
            let mut response = String::new();
            stream
                .read_to_string(&mut response)
                .expect("a response and the end");
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
            assert!(response.contains("connection: close"), "{response}");
        });
        let ended = server.stop("TERM");
        watching.join().expect("no panic");
        ended
    });
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn an_endless_request_delays_the_stop_only_to_its_deadline() {
    let mut server = Server::start_as(Engine::Memory, |setup| {
        setup
            .set("TALLY_DRAIN_TIMEOUT", "1")
            .set("TALLY_REQUEST_TIMEOUT", "600")
    });
    let mut stream = TcpStream::connect(server.address()).expect("connected");
    stream
        .write_all(b"POST /api/visit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
        .expect("sent");
    // The server asks for the body once it has begun to process the request.
    let mut line = String::new();
    BufReader::new(&stream)
        .read_line(&mut line)
        .expect("a response");
    assert!(line.starts_with("HTTP/1.1 100"), "{line}");
    assert_eq!(server.stop("TERM").code(), Some(0));
    assert!(server.log().contains("requests were still open"));
}

/// The environment variables that a file sets for the server, as `KEY=VALUE` after one of these words.
fn variables(text: &str, words: &[&str]) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| words.iter().find_map(|word| line.trim().strip_prefix(word)))
        .filter_map(|rest| rest.trim().trim_end_matches('\\').trim().split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

/// Starts and stops the server as a file under deploy/ does, but on free ports.
fn starts_with(arguments: &[&str], variables: &[(String, String)]) {
    let redis = Backend::redis(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = binary(folder.path())
        .args(arguments)
        .envs(variables.iter().cloned())
        .env("LEPTOS_SITE_ADDR", "127.0.0.1:0")
        .env("TALLY_METRICS", "127.0.0.1:0")
        .env("SESSION_STORE", format!("redis://127.0.0.1:{}", redis.port))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let out = server.stdout.take().expect("piped");
    let serves = BufReader::new(out)
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("serves"));
    let _ = std::process::Command::new("kill")
        .arg(server.id().to_string())
        .status();
    assert_eq!(server.wait().expect("it ends").code(), Some(0));
    assert!(serves, "{arguments:?} {variables:?}");
}

#[test]
fn the_command_of_the_systemd_unit_starts_the_server() {
    let unit = include_str!("../../deploy/tally.service");
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let mut words = start.expect("a command").split(' ');
    assert_eq!(
        words.next().map(Path::new).and_then(Path::file_name),
        Some("tally".as_ref())
    );
    let arguments: Vec<_> = words.collect();
    let variables = variables(unit, &["Environment="]);
    assert!(!variables.is_empty());
    starts_with(&arguments, &variables);
}

#[test]
fn the_command_of_the_container_starts_the_server() {
    let file = include_str!("../../deploy/Containerfile");
    let words = |instruction: &str| -> Vec<String> {
        let line = file.lines().find_map(|line| line.strip_prefix(instruction));
        serde_json::from_str(line.expect("an instruction")).expect("words")
    };
    assert_eq!(words("ENTRYPOINT "), ["/tally"]);
    let command = words("CMD ");
    let arguments: Vec<_> = command.iter().map(String::as_str).collect();
    let variables = variables(file, &["ENV "]);
    assert!(!variables.is_empty());
    starts_with(&arguments, &variables);
    // The container's build uses the same make target as every other release build.
    let makefile = include_str!("../../Makefile");
    assert!(file.contains("RUN make release") && makefile.contains("\nrelease:"));
}
