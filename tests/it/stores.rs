//! Stores that give operators trouble: they start late, refuse writes, contain other programs' data, or have settings
//! that `check --deploy` must report.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{
    self, Backend, Engine, Server, binary, console, get, output_of, page::Page, until,
};
use tally_session::{
    store::{self, Store, StoreOptions},
    testing::check_store,
};

/// The rights that a Redis user needs, from docs/operations.md.
fn documented_rights() -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let docs = std::fs::read_to_string(docs).expect("the docs");
    let rule = docs
        .lines()
        .find(|line| line.starts_with("ACL SETUSER tally "));
    let rule = rule.expect("the rule").split_whitespace().skip(3);
    rule.map(str::to_owned).collect()
}

/// Creates or changes a Redis user.
fn set_user(redis: &Backend, name: &str, rules: &[String]) {
    let mut words = vec!["acl", "setuser", name];
    words.extend(rules.iter().map(String::as_str));
    assert_eq!(redis.ask(&words), "OK", "{words:?}");
}

/// What a store can do besides keeping records.
fn abilities(store: &dyn Store) -> Vec<&'static str> {
    let abilities = [
        ("changes", store.change_feed().is_some()),
        ("sessions", store.index().is_some()),
        ("users", store.users().is_some()),
        ("values", store.values().is_some()),
        ("statistics", store.stats().is_some()),
    ];
    let has = abilities.into_iter().filter(|(_, has)| *has);
    has.map(|(name, _)| name).collect()
}

/// What [`abilities`] must return, because the suite for stores skips what a store lacks.
fn expected_abilities(engine: Engine) -> &'static [&'static str] {
    match engine {
        Engine::Redis | Engine::Postgres => {
            &["changes", "sessions", "users", "values", "statistics"]
        }
        Engine::MariaDb | Engine::Sqlite => &["sessions", "users", "values", "statistics"],
        Engine::Memory => &["sessions", "users", "values"],
        Engine::File | Engine::Memcached => &[],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_that_need_no_server_have_their_abilities() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display();
    for (engine, url) in [
        (Engine::Memory, "memory:".to_owned()),
        (Engine::File, format!("file://{path}/sessions")),
        (Engine::Sqlite, format!("sqlite://{path}/sessions.sqlite3")),
    ] {
        let options = StoreOptions::new(url.parse().expect("a URL"));
        let store = store::open(&options).await.expect("opened");
        let expected = expected_abilities(engine);
        assert_eq!(abilities(&*store), expected, "{engine:?}");
    }
}

/// Runs the session crate's own suite. The crate's tests run it on the engines that need no server.
#[tokio::test(flavor = "multi_thread")]
async fn every_store_server_passes_the_suite_for_stores() {
    for (engine, backend) in [
        (Engine::Redis, Backend::redis(&[])),
        (Engine::Memcached, Backend::memcached()),
        (Engine::MariaDb, Backend::mariadb(&[])),
        (Engine::Postgres, Backend::postgres(&[])),
    ] {
        let options = StoreOptions::new(backend.url().parse().expect("a URL"));
        let store = store::open(&options).await.expect("opened");
        let expected = expected_abilities(engine);
        assert_eq!(abilities(&*store), expected, "{engine:?}");
        check_store(store).await;
    }
}

#[test]
fn a_store_may_start_after_the_server() {
    for backend in [
        Backend::redis(&[]),
        Backend::memcached(),
        Backend::mariadb(&[]),
        Backend::postgres(&[]),
    ] {
        let store = backend.url();
        backend.stop();
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let mut waiting = binary(folder.path())
            .env("LEPTOS_SITE_ADDR", "127.0.0.1:0")
            .env("SESSION_STORE", &store)
            .stdout(std::process::Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("the binary starts");
        let said = || std::fs::read_to_string(&log).expect("a log");
        until(|| said().contains("trying again for 30 s").then_some(()));
        backend.start_again();
        let out = waiting.stdout.take().expect("piped");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(out));
        let url = lines.find_map(|line| {
            let line = line.expect("a line");
            line.strip_prefix("Tally serves ").map(str::to_owned)
        });
        assert_eq!(get(&url.expect("it serves")).status, 200);
        assert_eq!(said().lines().count(), 1, "{}", said());
        assert!(!said().contains("Os {"), "{}", said());
        waiting.kill().expect("it ends");
        waiting.wait().expect("it ends");
    }
}

#[test]
fn a_store_that_never_starts_ends_the_start_with_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = binary(folder.path());
    command
        .env("LEPTOS_SITE_ADDR", "127.0.0.1:0")
        .env("SESSION_STORE", "redis://127.0.0.1:1")
        .env("TALLY_STORE_WAIT", "1");
    let ended = output_of(&mut command);
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(said.lines().count(), 2, "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(
        last,
        "tally: the session store (Redis, 127.0.0.1:1) can't be reached: Connection refused"
    );
}

#[test]
fn a_redis_without_memory_refuses_writes_and_serves_reads() {
    let server = Server::start(Engine::Redis);
    let cookie = server.new_session();
    let redis = server.backend();
    assert_eq!(redis.ask(&["config", "set", "maxmemory", "1"]), "OK");
    let refused = server.post("/api/visit").cookie(&cookie).send();
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(server.stored_visits(&cookie), 1);
    let not_ready = || {
        let ready = server.get("/health/ready").send();
        (ready.status == 503).then_some(ready.body)
    };
    assert_eq!(until(not_ready), "memory\n");
    for _ in 0..30 {
        server.post("/api/visit").cookie(&cookie).send();
    }
    assert_eq!(redis.ask(&["config", "set", "maxmemory", "0"]), "OK");
    assert_eq!(server.visit(&cookie), 2);
    until(|| (server.get("/health/ready").send().status == 200).then_some(()));
    let log = until(|| {
        server.visit(&cookie);
        Some(server.log()).filter(|log| log.contains("works again"))
    });
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(
        log.contains("reason=memory") && log.contains("failures="),
        "{log}"
    );
}

#[test]
fn a_redis_user_with_the_documented_rights_is_enough() {
    let redis = Backend::redis(&[]);
    let store = format!("redis://{{user}}@127.0.0.1:{}", redis.port);
    documented_rights_are_enough(&[redis], &store);
    let masters = Backend::cluster(3, 0, &["--cluster-enabled", "yes"]);
    let store = format!("redis-cluster://{{user}}@127.0.0.1:{}", masters[0].port);
    documented_rights_are_enough(&masters, &store);
}

/// `{user}` in the store's URL stands for a name and a password.
fn documented_rights_are_enough(nodes: &[Backend], store: &str) {
    let mut rights = documented_rights();
    let password = rights.iter_mut().find(|rule| rule.starts_with('>'));
    *password.expect("a password") = ">s:e/c@r e%t".to_owned();
    for node in nodes {
        set_user(node, "tally", &rights);
        set_user(node, "default", &["off".to_owned()]);
    }
    let store = store.replace("{user}", "tally:s%3Ae%2Fc%40r%20e%25t");
    let server = Server::on(&store, console::with_console);
    let cookie = server.new_session();
    let mut page = Page::open(&server, &cookie);
    assert_eq!(server.beside().visit(&cookie), 2);
    page.until_visits(2);
    drop(page);
    let operator = console::sign_in(&server, "");
    for path in ["/admin", "/admin/sessions"] {
        assert_eq!(server.get(path).cookie(&operator).send().status, 200);
    }
    assert_eq!(server.get("/health/ready").send().body, "ok\n");
    let problems = server.problems(&[]);
    assert!(!problems.contains("rights"), "{problems}");
    assert_eq!(server.log().matches("ERROR").count(), 0, "{}", server.log());
}

#[test]
fn check_deploy_finds_missing_redis_rights() {
    let redis = Backend::redis(&[]);
    let store = format!("redis://{{user}}@127.0.0.1:{}", redis.port);
    missing_rights_are_found(&[redis], &store, &["-publish", "-subscribe"]);
    let masters = Backend::cluster(3, 0, &["--cluster-enabled", "yes"]);
    let store = format!("redis-cluster://{{user}}@127.0.0.1:{}", masters[0].port);
    missing_rights_are_found(&masters, &store, &["-spublish", "-ssubscribe"]);
}

fn missing_rights_are_found(nodes: &[Backend], store: &str, missing: &[&str]) {
    let mut rights = documented_rights();
    rights.retain(|rule| !rule.starts_with('>'));
    rights.push(">secret".to_owned());
    let store = store.replace("{user}", "tally:secret");
    let set_rights = |rights: &[String]| {
        for node in nodes {
            set_user(node, "tally", rights);
        }
    };
    set_rights(&rights);
    let server = Server::on(&store, |setup| setup);
    for right in missing {
        set_rights(&[&rights[..], &[(*right).to_owned()]].concat());
        let problems = server.problems(&[]);
        assert!(problems.contains("lacks rights"), "{right}: {problems}");
        assert!(!problems.contains("secret"), "{problems}");
    }
}

#[test]
fn check_deploy_finds_a_redis_that_evicts_is_read_only_or_has_a_wrong_clock() {
    let server = Server::start(Engine::Redis);
    let redis = server.backend();
    for policy in ["allkeys-lru", "volatile-ttl"] {
        redis.ask(&["config", "set", "maxmemory-policy", policy]);
        redis.ask(&["config", "set", "maxmemory", "100mb"]);
        let problems = server.problems(&[]);
        assert!(problems.contains(policy), "{problems}");
    }
    redis.ask(&["config", "set", "maxmemory", "0"]);
    let problems = server.problems(&[]);
    assert!(!problems.contains("maxmemory-policy"), "{problems}");
    assert!(!problems.contains("clocks"), "{problems}");
    redis.ask(&["replicaof", "127.0.0.1", "1"]);
    let problems = server.problems(&[]);
    assert!(problems.contains("read-only"), "{problems}");
    redis.ask(&["replicaof", "no", "one"]);
    let ahead = server.problems(&support::clock("+90s"));
    assert!(ahead.contains("clocks"), "{ahead}");
}

#[test]
fn a_record_that_cannot_be_decoded_becomes_a_new_session() {
    for engine in [
        Engine::Redis,
        Engine::File,
        Engine::Sqlite,
        Engine::Memcached,
        Engine::MariaDb,
        Engine::Postgres,
    ] {
        let server = Server::start(engine);
        let cookie = server.new_session();
        tamper(&server, engine);
        let read = server.get("/about").cookie(&cookie).send();
        assert_eq!(read.status, 200, "{engine:?}");
        let removed = read.header("set-cookie").expect("a cookie");
        assert!(removed.starts_with("sessionid=;"), "{engine:?}: {removed}");
        assert_replaced(&server, &cookie, 2);
        assert!(!server.log().contains("tampered"), "{}", server.log());
    }
}

#[test]
fn a_foreign_value_in_place_of_a_record_becomes_a_new_session() {
    let server = Server::start(Engine::Redis);
    let cookie = server.new_session();
    let redis = server.backend();
    let key = redis.ask(&["keys", "tally:*"]);
    redis.ask(&["del", &key]);
    redis.ask(&["rpush", &key, "one", "two"]);
    assert_replaced(&server, &cookie, 1);
    let server = Server::start(Engine::File);
    let cookie = server.new_session();
    let record = record_of(&server);
    fs::remove_file(&record).expect("removed");
    fs::create_dir(&record).expect("made");
    assert_replaced(&server, &cookie, 1);
}

/// Visits the site, which must begin a new session. By then, the log must report this many failures.
fn assert_replaced(server: &Server, cookie: &str, failures: usize) {
    let page = server.get("/").cookie(cookie).send();
    assert_eq!((page.status, page.visits()), (200, 1));
    let fresh = page.header("set-cookie").map(support::cookie_of);
    let fresh = fresh.expect("a new session");
    assert_ne!(fresh, cookie);
    assert_eq!(server.visit(&fresh), 2);
    let (log, store) = (server.log(), server.store());
    let lines = log.matches("can't be decoded").count();
    assert_eq!(lines, failures, "{store}: {log}");
    let counted = server.metric("tally_sessions_undecodable_total");
    assert_eq!(counted, failures as f64, "{store}");
}

/// The file of the only session.
fn record_of(server: &Server) -> PathBuf {
    let mut files = server.files().into_iter();
    let record = files.find(|file| file.extension().is_some_and(|end| end == "session"));
    record.expect("a record")
}

/// Replaces the only record with a text.
fn tamper(server: &Server, engine: Engine) {
    let update = "update tower_sessions set data = 'tampered-content'";
    match engine {
        Engine::Redis => {
            let key = server.backend().ask(&["keys", "tally:*"]);
            assert_eq!(
                server.backend().ask(&["set", &key, "tampered-content"]),
                "OK"
            );
        }
        Engine::File => fs::write(record_of(server), "tampered-content").expect("written"),
        Engine::Memcached => {
            let port = server.backend().port;
            let listed = memcached(port, "lru_crawler metadump all\r\n", "END\r\n");
            let name = listed.split("key=tally%3A").nth(1).expect("a record");
            let name = name.split(' ').next().unwrap_or_default();
            let set = format!("set tally:{name} 0 0 16\r\ntampered-content\r\n");
            memcached(port, &set, "STORED\r\n");
        }
        Engine::MariaDb => _ = server.backend().mysql(&format!("use tally; {update}")),
        Engine::Postgres => _ = server.backend().sql(update),
        _ => sqlite(server, update),
    }
}

/// Sends a command to a Memcached, and returns its output, which must end with `end`.
fn memcached(port: u16, command: &str, end: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.write_all(command.as_bytes()).expect("sent");
    let mut said = String::new();
    while !said.ends_with(end) {
        let mut bytes = [0; 1_024];
        let size = stream.read(&mut bytes).expect("a response");
        assert_ne!(size, 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&bytes[..size]));
    }
    said
}

/// Changes the server's SQLite file with another program.
fn sqlite(server: &Server, statement: &str) {
    let script =
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()";
    let file = server.folder().join("sessions/sessions.sqlite3");
    let status = Command::new("python3")
        .args(["-c", script])
        .arg(file)
        .arg(statement)
        .status();
    assert!(status.expect("python3").success());
}

#[test]
fn a_store_can_be_a_socket_with_a_database_and_a_prefix() {
    let redis = Backend::start(|folder, port| {
        let mut command = Command::new("redis-server");
        command
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .arg("--unixsocket")
            .arg(folder.join("redis.sock"));
        command
    });
    let socket = redis.folder.path().join("redis.sock");
    let store = format!("redis+unix://{}?db=3", socket.display());
    let server = Server::on(&store, |setup| setup.set("SESSION_STORE_PREFIX", "shop1:"));
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    let keys = redis.ask(&["-n", "3", "keys", "*"]);
    assert!(keys.lines().all(|key| key.starts_with("shop1:")), "{keys}");
    assert!(!keys.is_empty());
    assert_eq!(redis.keys(), 0);
    let said = server.command(&["migrate"]);
    assert!(said.contains("redis.sock, database 3"), "{said}");

    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("memcached.sock");
    let mut memcached = Command::new("memcached")
        .args(["-u", "root", "-s"])
        .arg(&socket)
        .spawn()
        .expect("memcached");
    until(|| socket.exists().then_some(()));
    let server = Server::on(&format!("memcached://{}", socket.display()), |setup| setup);
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    memcached.kill().expect("it ends");
    memcached.wait().expect("it ends");
}

#[test]
fn without_a_prefix_the_keys_are_those_of_tower_sessions() {
    let redis = Backend::redis(&[]);
    let store = format!("redis://127.0.0.1:{}", redis.port);
    let folder = tempfile::tempdir().expect("a folder");
    let settings = folder.path().join("bare.toml");
    std::fs::write(&settings, "[sessions]\nstore_prefix = \"\"\n").expect("written");
    let server = Server::on(&store, |setup| setup.settings(&settings));
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    assert_eq!(server.stored_visits(&cookie), 2);
    let key = redis.ask(&["keys", "*"]);
    assert!(key.parse::<tower_sessions::session::Id>().is_ok(), "{key}");
}

/// The size of SQLite's write-ahead log.
fn log_bytes(server: &Server) -> u64 {
    let log = server.folder().join("sessions/sessions.sqlite3-wal");
    std::fs::metadata(log).map_or(0, |log| log.len())
}

#[test]
fn the_sqlite_log_shrinks_once_nothing_reads_it() {
    const LARGE: u64 = 70 * 1_024 * 1_024;
    let server = Server::start(Engine::Sqlite);
    let cookie = server.new_session();
    // The reader is like a backup, or a shell that somebody left open.
    let file = server.folder().join("sessions/sessions.sqlite3");
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('begin'); \
        c.execute('select count(*) from tower_sessions').fetchone(); sys.stdin.read()";
    let mut reader = Command::new("python3")
        .args(["-c", script])
        .arg(&file)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("python3");
    let filler = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 9000) \
        insert or replace into tower_sessions select 'filler' || i, zeroblob(8000), 0 from n";
    until(|| {
        sqlite(&server, filler);
        (log_bytes(&server) >= LARGE).then_some(())
    });
    until(|| {
        server
            .log()
            .contains("keeps its log from being written back")
            .then_some(())
    });
    assert!(server.metric("tally_store_log_bytes") >= LARGE as f64);
    assert_eq!(server.visit(&cookie), 2);
    drop(reader.stdin.take());
    reader.wait().expect("it ends");
    until(|| (log_bytes(&server) < 5 * 1_024 * 1_024).then_some(()));
    assert_eq!(server.visit(&cookie), 3);
    let said = server.log();
    assert_eq!(said.lines().count(), 1, "{said}");
    // After the records are deleted, the server shrinks the file.
    let size = || std::fs::metadata(&file).expect("a file").len();
    sqlite(
        &server,
        "delete from tower_sessions where id like 'filler%'",
    );
    let before = size();
    until(|| (size() < before).then_some(()));
}

#[test]
fn commands_refuse_sessions_that_only_a_server_has_in_memory() {
    let server = Server::start(Engine::Memory);
    for command in ["clearsessions", "sign-in-link"] {
        let output = binary(server.folder())
            .arg(command)
            .env("SESSION_STORE", "memory:")
            .env("TALLY_CONSOLE_PASSWORD_HASH", &*console::HASH)
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("no command reaches them"), "{said}");
    }
}

#[test]
fn an_unready_server_gives_the_reason_in_one_word() {
    let server = Server::start(Engine::Redis);
    server.backend().signal("STOP");
    let ready = until(|| {
        let ready = server.get("/health/ready").send();
        (ready.status == 503).then_some(ready)
    });
    assert_eq!(ready.body, "unreachable\n");
    server.backend().signal("CONT");
    until(|| (server.get("/health/ready").send().status == 200).then_some(()));
    // A flood of probes costs the store no more than one probe each second, but it does ask.
    let before = server.metric("tally_store_seconds_count{operation=\"load\"}");
    let began = std::time::Instant::now();
    for _ in 0..200 {
        server.get("/health/ready").send();
    }
    let probes = || server.metric("tally_store_seconds_count{operation=\"load\"}") - before;
    let (asked, most) = (probes(), began.elapsed().as_secs() + 2);
    assert!(asked <= most as f64, "{asked}");
    until(|| {
        server.get("/health/ready").send();
        (probes() >= 1.0).then_some(())
    });
}
