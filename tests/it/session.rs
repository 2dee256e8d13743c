//! Sessions as a browser, a proxy and an operator see them: the real binary, over HTTP, on every engine.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    thread,
};

use crate::support::{Databases, Engine, Response, Server, Setup, cookie_of, until};
use tally_session::{
    SessionId,
    store::{self, StoreOptions, StoreUrl},
};
use tower_sessions::session::Id;

/// The `Set-Cookie` that removes a session's cookie.
const REMOVED: &str = "sessionid=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0";

/// A well-formed cookie that belongs to no session.
const UNKNOWN: &str = "sessionid=0123456789abcdef0123456789abcdef";

/// Runs a test on every engine, on the site with the probe's routes.
fn on_every_engine_probed(test: impl Fn(&Server)) {
    on_every_engine_as(Setup::probe, test);
}

fn on_every_engine_as(adapt: impl Fn(Setup) -> Setup, test: impl Fn(&Server)) {
    let databases = Databases::shared();
    for engine in Engine::ALL {
        eprintln!("on {engine:?}");
        test(&Server::start_in(&databases, engine, &adapt));
    }
}

fn max_age(response: &Response) -> Option<i64> {
    let set = response.header("set-cookie").expect("a cookie");
    let age = set
        .split("; ")
        .find_map(|part| part.strip_prefix("Max-Age="));
    age.map(|age| age.parse().expect("a number"))
}

/// Asserts that the server has created no session, and that its store has none if the test can look into it.
fn assert_nothing_stored(server: &Server) {
    for operation in ["create", "save"] {
        let name = format!("tally_store_seconds_count{{operation=\"{operation}\"}}");
        assert_eq!(server.metric(&name), 0.0, "{operation}");
    }
    assert_eq!(server.metric("tally_sessions_created_total"), 0.0);
    if server.store().starts_with("redis") {
        assert_eq!(server.backend().keys(), 0);
    }
    if server.store().starts_with("file") {
        let is_record = |file: &PathBuf| file.extension().is_some_and(|end| end == "session");
        assert!(!server.files().iter().any(is_record));
    }
}

/// Runs a test on every engine.
fn on_every_engine(test: impl Fn(&Server)) {
    on_every_engine_as(|setup| setup, test);
}

#[test]
fn a_page_that_ignores_the_session_sets_no_cookie() {
    on_every_engine(|server| {
        for path in ["/nowhere", "/health", "/robots.txt"] {
            for cookie in ["", UNKNOWN] {
                let response = server.get(path).cookie(cookie).send();
                let expected = if path == "/nowhere" { 404 } else { 200 };
                assert_eq!(response.status, expected, "{path}");
                assert_eq!(response.header("set-cookie"), None, "{path}");
                assert!(!response.varies_by_cookie(), "{path}");
            }
        }
    });
}

#[test]
fn reading_without_a_cookie_stores_nothing() {
    on_every_engine(|server| {
        let response = server.get("/about").send();
        assert_eq!(response.status, 200);
        assert_eq!(response.header("set-cookie"), None);
        assert!(response.varies_by_cookie());
        assert_eq!(response.header("cache-control"), Some("private, no-store"));
        assert_nothing_stored(server);
    });
}

#[test]
fn reading_an_unknown_id_removes_the_cookie() {
    on_every_engine(|server| {
        let response = server.get("/about").cookie(UNKNOWN).send();
        assert_eq!(response.status, 200);
        assert_eq!(response.header("set-cookie"), Some(REMOVED));
        assert!(response.varies_by_cookie());
        assert_nothing_stored(server);
    });
}

#[test]
fn the_first_write_sets_the_cookie_and_later_writes_keep_its_id() {
    on_every_engine(|server| {
        let first = server.get("/").send();
        let set = first.header("set-cookie").expect("a cookie").to_owned();
        let cookie = cookie_of(&set);
        assert_eq!(
            set,
            format!("{cookie}; HttpOnly; SameSite=Lax; Path=/; Max-Age=1209600")
        );
        assert_eq!(cookie.len(), "sessionid=".len() + 32);
        let second = server.get("/").cookie(&cookie).send();
        assert_eq!(second.header("set-cookie"), Some(set.as_str()));
        assert!(second.body.contains("Visit count: "));
        assert_eq!(second.visits(), 2);
    });
}

#[test]
fn a_malformed_cookie_is_no_session() {
    let long = format!("sessionid={}", "a".repeat(10_000));
    let cookies: [&[u8]; 7] = [
        b"sessionid=",
        b"sessionid=abc",
        long.as_bytes(),
        b"sessionid=../../../../etc/passwd",
        b"sessionid=\xc3\xa9\xc3\xa9",
        b"sessionid=\xff\xfe",
        b"sessionid",
    ];
    on_every_engine(|server| {
        for cookie in cookies {
            let response = server.get("/").cookie_bytes(cookie).send();
            assert_eq!(response.status, 200);
            assert_eq!(response.visits(), 1);
            let read = server.get("/about").cookie_bytes(cookie).send();
            let named = cookie.contains(&b'=');
            assert_eq!(read.header("set-cookie"), named.then_some(REMOVED));
        }
    });
}

#[test]
fn prefetches_and_head_requests_count_nothing() {
    on_every_engine(|server| {
        for (method, header) in [
            ("HEAD", None),
            ("GET", Some(("sec-purpose", "prefetch;prerender"))),
            ("GET", Some(("purpose", "prefetch"))),
        ] {
            for cookie in [String::new(), server.new_session()] {
                let mut request = server.request(method, "/").cookie(&cookie);
                if let Some((name, value)) = header {
                    request = request.header(name, value);
                }
                let response = request.send();
                assert_eq!(response.status, 200);
                assert_eq!(response.header("set-cookie"), None);
                if !cookie.is_empty() {
                    assert_eq!(server.get("/").cookie(&cookie).send().visits(), 2);
                }
            }
        }
    });
}

#[test]
fn concurrent_visits_get_different_numbers() {
    on_every_engine(|server| {
        let cookie = server.new_session();
        let mut numbers: Vec<u64> = thread::scope(|scope| {
            let workers: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        let visit = || server.post("/api/visit").cookie(&cookie).send();
                        (0..10)
                            .map(|_| visit().count().expect("a number"))
                            .collect::<Vec<u64>>()
                    })
                })
                .collect();
            let numbers = workers
                .into_iter()
                .map(|worker| worker.join().expect("a worker"));
            numbers.flatten().collect()
        });
        numbers.sort_unstable();
        assert_eq!(numbers, (2..=161).collect::<Vec<_>>());
    });
}

#[test]
fn a_form_without_javascript_redirects_and_counts_once() {
    on_every_engine(|server| {
        let cookie = server.new_session();
        for (path, visits) in [("/api/visit", 2), ("/api/reset", 0)] {
            let response = server
                .post(path)
                .cookie(&cookie)
                .header("accept", "text/html")
                .header("referer", &server.url("/?__path=x&__err=y"))
                .send();
            assert_eq!(response.status, 303);
            let back = response.header("location").expect("a page");
            assert_eq!(back, "/?counted=");
            assert_eq!(server.get(back).cookie(&cookie).send().visits(), visits);
        }
    });
}

#[test]
fn a_link_from_another_site_resets_nothing() {
    let server = Server::start(Engine::Memory);
    let cookie = server.new_session();
    let linked = server
        .get("/reset")
        .cookie(&cookie)
        .header("sec-fetch-site", "cross-site")
        .send();
    assert!(linked.body.contains("Reset your visit count to 0?"));
    assert_eq!(server.get("/").cookie(&cookie).send().visits(), 2);
    // Browsers send no Sec-Fetch-Site over plain HTTP, so the Referer decides.
    let linked = server
        .get("/reset")
        .cookie(&cookie)
        .header("referer", "https://evil.example/")
        .send();
    assert!(linked.body.contains("Reset your visit count to 0?"));
    let own = server
        .get("/reset")
        .cookie(&cookie)
        .header("referer", &server.url("/about"))
        .send();
    assert!(own.body.contains("Visit count has been reset to 0"));
    assert_eq!(server.get("/").cookie(&cookie).send().visits(), 1);
}

#[test]
fn every_path_has_its_response() {
    let server = Server::start(Engine::Memory);
    for (path, status, location) in [
        ("/about/", 308, Some("/about")),
        ("/reset/", 308, Some("/reset")),
        ("/nowhere", 404, None),
        ("/pkg/nothing.js", 404, None),
    ] {
        let response = server.get(path).send();
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("location"), location, "{path}");
    }
    let large = server.post("/api/visit").body(&"x".repeat(100_000)).send();
    assert_eq!(large.status, 413);
}

#[test]
fn sessions_survive_a_restart() {
    for engine in [Engine::Sqlite, Engine::Postgres, Engine::Redis] {
        let mut server = Server::start(engine);
        let cookie = server.new_session();
        server.restart();
        assert_eq!(server.get("/").cookie(&cookie).send().visits(), 2);
    }
}

#[test]
fn a_missing_store_is_a_503_page_and_its_return_needs_no_restart() {
    for engine in [Engine::Redis, Engine::Postgres, Engine::MariaDb] {
        a_store_goes_and_comes_back(engine);
    }
}

fn a_store_goes_and_comes_back(engine: Engine) {
    let server = Server::start(engine);
    let cookie = server.new_session();
    server.backend().stop();
    let page = server.get("/").cookie(&cookie).send();
    assert_eq!(page.status, 503);
    assert!(page.body.contains("can&#x27;t be reached") || page.body.contains("can't be reached"));
    assert_eq!(page.header("retry-after"), Some("2"));
    assert_eq!(page.header("set-cookie"), None);
    let call = server.post("/api/visit").cookie(&cookie).send();
    assert_eq!(call.status, 503);
    server.backend().start_again();
    let response = server.until_up("/", &cookie);
    assert_eq!(response.visits(), 2);
}

#[test]
fn a_request_takes_no_more_store_operations_than_it_needs() {
    let server = Server::probe(Engine::Redis);
    let cookie = server.new_session();
    let stats = || server.backend().ask(&["info", "commandstats"]);
    // The server's clean-up at the start must not be counted.
    until(|| stats().contains("cmdstat_zrangebyscore:").then_some(()));
    let commands = || -> u64 {
        stats()
            .lines()
            .filter(|line| {
                !["info", "client", "hello", "ping"]
                    .iter()
                    .any(|own| line.starts_with(&format!("cmdstat_{own}")))
            })
            .filter_map(|line| {
                line.split_once("calls=")?
                    .1
                    .split(',')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .sum()
    };
    let before = commands();
    server.get("/nowhere").cookie(&cookie).send();
    server.get("/icon.svg").cookie(&cookie).send();
    assert_eq!(commands(), before);
    let read = server.get("/probe/read").cookie(&cookie).send();
    assert_eq!(commands(), before + 1);
    assert_eq!(read.header("set-cookie"), None);
    assert!(read.varies_by_cookie());
    assert_eq!(read.header("cache-control"), Some("private, no-store"));
}

#[test]
fn clearing_all_values_keeps_the_id() {
    on_every_engine_probed(|server| {
        let cookie = server.new_session();
        let cleared = server.post("/probe/clear").cookie(&cookie).send();
        assert_eq!(
            cleared.header("set-cookie").map(cookie_of),
            Some(cookie.clone())
        );
        let next = server.get("/").cookie(&cookie).send();
        assert_eq!(next.visits(), 1);
        assert_eq!(next.header("set-cookie").map(cookie_of), Some(cookie));
    });
}

#[test]
fn flush_deletes_the_record_at_once() {
    on_every_engine_probed(|server| {
        let cookie = server.new_session();
        let flushed = server.post("/probe/flush").cookie(&cookie).send();
        assert_eq!(flushed.header("set-cookie"), Some(REMOVED));
        assert_eq!(server.stored_visits(&cookie), 0);
        let without = server.post("/probe/flush").send();
        assert_eq!(without.header("set-cookie"), None);
    });
}

#[test]
fn a_response_below_500_saves_the_session() {
    on_every_engine_probed(|server| {
        let cookie = server.new_session();
        for (visits, status) in (2..).zip([200, 204, 303, 404, 499]) {
            let path = format!("/probe/write/{status}");
            let response = server.post(&path).cookie(&cookie).send();
            assert_eq!(response.status, status);
            assert_eq!(
                response.header("set-cookie").map(cookie_of),
                Some(cookie.clone())
            );
            assert_eq!(server.stored_visits(&cookie), visits);
        }
    });
}

#[test]
fn a_failed_response_saves_nothing() {
    on_every_engine_probed(|server| {
        let cookie = server.new_session();
        for path in [
            "/probe/write/500",
            "/probe/write/503",
            "/probe/write/599",
            "/probe/panic",
        ] {
            let response = server.post(path).cookie(&cookie).send();
            assert!(response.status >= 500, "{path}");
            assert_eq!(response.header("set-cookie"), None, "{path}");
            assert!(response.varies_by_cookie(), "{path}");
            assert_eq!(server.stored_visits(&cookie), 1, "{path}");
            let first = server.post(path).send();
            assert_eq!(first.header("set-cookie"), None, "{path}");
        }
        assert_eq!(server.visit(&cookie), 2);
    });
}

#[test]
fn cycling_the_id_keeps_the_data_and_ends_the_old_id() {
    on_every_engine_probed(|server| {
        let old = server.new_session();
        let failed = server.post("/probe/rotate/500").cookie(&old).send();
        assert_eq!(failed.header("set-cookie"), None);
        assert_eq!(server.stored_visits(&old), 1);
        let rotated = server.post("/probe/rotate/200").cookie(&old).send();
        let new = rotated
            .header("set-cookie")
            .map(cookie_of)
            .expect("a cookie");
        assert_ne!(new, old);
        assert_eq!(server.stored_visits(&old), 0);
        assert_eq!(server.visit(&new), 2);
    });
}

#[test]
fn a_session_deleted_during_a_request_stays_deleted() {
    on_every_engine_probed(|server| {
        let cookie = server.new_session();
        let waiting: u64 = server
            .get("/probe/waiting")
            .send()
            .body
            .parse()
            .expect("a number");
        let response = thread::scope(|scope| {
            let request =
                scope.spawn(|| server.post("/probe/read-wait-write").cookie(&cookie).send());
            until(|| {
                let now: u64 = server.get("/probe/waiting").send().body.parse().ok()?;
                (now > waiting).then_some(())
            });
            server.post("/probe/flush").cookie(&cookie).send();
            server.post("/probe/go-on").send();
            request.join().expect("a response")
        });
        assert_eq!(response.body, "1 true");
        let fresh = response
            .header("set-cookie")
            .map(cookie_of)
            .expect("a cookie");
        assert_ne!(fresh, cookie);
        assert!(response.varies_by_cookie());
        assert_eq!(server.stored_visits(&cookie), 0);
        assert_eq!(server.stored_visits(&fresh), 1);
    });
}

#[test]
fn options_requests_change_nothing() {
    on_every_engine(|server| {
        let cookie = server.new_session();
        let response = server.request("OPTIONS", "/").cookie(&cookie).send();
        assert_eq!(response.header("set-cookie"), None);
        assert_eq!(server.stored_visits(&cookie), 1);
    });
}

#[test]
fn responses_that_depend_on_the_session_are_not_cached() {
    on_every_engine_probed(|server| {
        let cookie = server.new_session();
        let no_cookie = String::new();
        for path in ["/", "/about", "/reset", "/probe/read"] {
            for cookie in [&cookie, &no_cookie] {
                let response = server.get(path).cookie(cookie).send();
                assert_eq!(
                    response.header("cache-control"),
                    Some("private, no-store"),
                    "{path}"
                );
            }
        }
    });
}

#[test]
fn a_host_cookie_is_removed_with_the_attributes_it_was_set_with() {
    let secure = |setup: Setup| {
        setup
            .set("SESSION_COOKIE_NAME", "__Host-id")
            .set("SESSION_COOKIE_SECURE", "true")
            .set("SESSION_COOKIE_SAMESITE", "Strict")
    };
    let server = Server::start_as(Engine::Memory, secure);
    let set = server.get("/").send();
    let value = set.header("set-cookie").expect("a cookie");
    assert!(
        value.ends_with("; HttpOnly; SameSite=Strict; Secure; Path=/; Max-Age=1209600"),
        "{value}"
    );
    let unknown = UNKNOWN.replace("sessionid", "__Host-id");
    let read = server.get("/about").cookie(&unknown).send();
    assert_eq!(
        read.header("set-cookie"),
        Some("__Host-id=; HttpOnly; SameSite=Strict; Secure; Path=/; Max-Age=0")
    );
}

#[test]
fn the_settings_name_the_cookie_and_its_attributes() {
    let shaped = |setup: Setup| {
        setup
            .set("SESSION_COOKIE_NAME", "who")
            .set("SESSION_COOKIE_DOMAIN", "shop.example")
            .set("SESSION_COOKIE_PATH", "/shop")
            .set("SESSION_COOKIE_HTTPONLY", "no")
            .set("SESSION_COOKIE_AGE", "60")
    };
    let server = Server::start_as(Engine::Memory, shaped);
    let response = server.get("/").send();
    let set = response.header("set-cookie").expect("a cookie");
    assert!(
        set.ends_with("; SameSite=Lax; Domain=shop.example; Path=/shop; Max-Age=60"),
        "{set}"
    );
    let closing = |setup: Setup| setup.set("SESSION_EXPIRE_AT_BROWSER_CLOSE", "true");
    let server = Server::start_as(Engine::Memory, closing);
    assert_eq!(max_age(&server.get("/").send()), None);
}

#[test]
fn the_settings_limit_the_age_of_a_session() {
    for (name, age) in [("SESSION_IDLE_AGE", "100"), ("SESSION_ABSOLUTE_AGE", "100")] {
        let server = Server::start_as(Engine::Redis, |setup| setup.set(name, age));
        let first = server.get("/").send();
        let cookie = first.header("set-cookie").map(cookie_of).expect("a cookie");
        let again = server.get("/").cookie(&cookie).send();
        for response in [&first, &again] {
            let age = max_age(response).expect("an age");
            assert!((90..=100).contains(&age), "{name}: {age}");
        }
        let key = server.backend().ask(&["randomkey"]);
        let lives: i64 = server
            .backend()
            .ask(&["ttl", &key])
            .parse()
            .expect("a number");
        assert!((90..=100).contains(&lives), "{name}: {lives}");
    }
}

#[test]
fn the_settings_can_renew_sessions_on_every_request() {
    let renewing = |setup: Setup| setup.probe().set("SESSION_SAVE_EVERY_REQUEST", "true");
    on_every_engine_as(renewing, |server| {
        let cookie = server.new_session();
        for path in ["/probe/read", "/nowhere"] {
            let response = server.get(path).cookie(&cookie).send();
            assert_eq!(
                response.header("set-cookie").map(cookie_of),
                Some(cookie.clone()),
                "{path}"
            );
        }
        let unknown = server.get("/probe/read").cookie(UNKNOWN).send();
        assert_eq!(unknown.header("set-cookie"), Some(REMOVED));
        let none = server.get("/probe/read").send();
        assert_eq!(none.header("set-cookie"), None);
    });
}

#[test]
fn concurrent_writes_of_different_keys_both_survive() {
    on_every_engine_probed(|server| {
        let cookie = server.new_session();
        let write = |path: &str, body: &str| {
            for _ in 0..10 {
                let sent = server.post(path).body(body).cookie(&cookie).send();
                assert_eq!(sent.status, 200, "{path}");
            }
        };
        thread::scope(|scope| {
            for (path, body) in [
                ("/api/theme", "theme=dark"),
                ("/api/draft", "draft=kept"),
                ("/api/visit", ""),
                ("/api/visit", ""),
            ] {
                scope.spawn(move || write(path, body));
            }
        });
        let body = server.get("/probe/read").cookie(&cookie).send().body;
        for field in [r#""theme":"dark""#, r#""draft":"kept""#, r#""visits":21"#] {
            assert!(body.contains(field), "{body}");
        }
    });
}

/// The store's files, as bytes. A Redis is stopped for it.
fn dump(server: &Server) -> Vec<u8> {
    let files = if server.store().starts_with("redis") {
        let redis = server.backend();
        assert_eq!(redis.ask(&["config", "set", "rdbcompression", "no"]), "OK");
        redis.stop();
        vec![redis.folder.path().join("dump.rdb")]
    } else {
        server.files()
    };
    let mut dump = Vec::new();
    for file in files {
        dump.extend(file.as_os_str().as_encoded_bytes());
        dump.extend(fs::read(file).expect("a readable file"));
    }
    dump
}

/// Whether a dump contains an id in one of the forms in which a store may write it.
fn holds(dump: &[u8], id: Id) -> bool {
    let bits = id.0 as u128;
    let forms = [
        format!("{bits:032x}").into_bytes(),
        bits.to_string().into_bytes(),
        id.to_string().into_bytes(),
        bits.to_be_bytes().to_vec(),
        bits.to_le_bytes().to_vec(),
    ];
    forms
        .iter()
        .any(|form| dump.windows(form.len()).any(|part| part == form))
}

#[test]
fn no_string_in_the_store_opens_a_session() {
    for engine in [Engine::Redis, Engine::Sqlite, Engine::File] {
        let server = Server::start(engine);
        let cookie = server.new_session();
        let secret = &cookie["sessionid=".len()..];
        let stored = SessionId::parse(secret.as_bytes()).expect("an id").hashed();
        let secret = u128::from_str_radix(secret, 16).expect("an id");
        let stolen = format!("sessionid={:032x}", stored.0 as u128);
        assert_eq!(server.stored_visits(&stolen), 0, "{engine:?}");
        assert_eq!(server.stored_visits(&cookie), 1, "{engine:?}");
        let dump = dump(&server);
        assert!(holds(&dump, stored), "{engine:?}: not a dump of the store");
        assert!(!holds(&dump, Id(secret as i128)), "{engine:?}");
    }
}

#[test]
fn the_log_contains_no_session_ids() {
    let server = Server::start_as(Engine::Redis, |setup| {
        setup.probe().set("TALLY_LOG", "trace")
    });
    let cookie = server.new_session();
    let id = &cookie["sessionid=".len()..];
    for path in ["/", "/about", "/reset", "/nowhere"] {
        server.get(path).cookie(&cookie).send();
    }
    for path in ["/api/visit", "/probe/rotate/200", "/probe/panic"] {
        let response = server.post(path).cookie(&cookie).send();
        assert!(!response.body.contains(id), "{path}");
    }
    server
        .get("/")
        .cookie(&format!("{cookie}; sessionid={}", "x".repeat(10_000)))
        .send();
    let log = server.log();
    assert!(log.len() > 1_000, "{log}");
    assert!(!log.contains(id));
    assert!(log.lines().all(|line| line.len() < 5_000));
}

#[test]
fn a_session_can_have_its_own_expiry() {
    on_every_engine_probed(|server| {
        let cookie = server.new_session();
        let expire = |kind: &str, value: i64| {
            let path = format!("/probe/expiry/{kind}/{value}");
            server.post(&path).cookie(&cookie).send()
        };
        let visited = || max_age(&server.get("/").cookie(&cookie).send());
        assert_eq!(max_age(&expire("seconds", 300)), Some(300));
        assert_eq!(visited(), Some(300));
        assert_eq!(max_age(&expire("seconds", 0)), None);
        assert_eq!(visited(), None);
        let soon = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs() as i64
            + 1_000;
        let until_then = max_age(&expire("at", soon)).expect("an age");
        assert!((990..=1_000).contains(&until_then), "{until_then}");
        for (kind, value) in [("seconds", -1), ("at", 1_000)] {
            let refused = expire(kind, value);
            assert_eq!(refused.status, 400);
            assert_eq!(refused.header("set-cookie"), None);
            assert_eq!(refused.body, "a session can't expire in the past");
        }
        assert_eq!(max_age(&expire("none", 0)), Some(1_209_600));
        assert_eq!(visited(), Some(1_209_600));
    });
}

#[test]
fn reading_does_not_extend_a_session() {
    let server = Server::probe(Engine::Redis);
    let cookie = server.new_session();
    server.get("/").cookie(&cookie).send();
    let key = server.backend().ask(&["randomkey"]);
    server.backend().ask(&["expire", &key, "1000"]);
    let expires = || {
        server
            .backend()
            .ask(&["expiretime", &key])
            .parse::<i64>()
            .expect("a time")
    };
    let before = expires();
    server.get("/probe/read").cookie(&cookie).send();
    assert_eq!(expires(), before);
    server.get("/").cookie(&cookie).send();
    assert!(expires() > before + 1_000_000);
}

#[test]
fn expired_sessions_are_invisible_and_can_be_cleared() {
    let databases = Databases::shared();
    // Long enough that the server's clean-up at the start can't remove any of these sessions.
    let short = |setup: Setup| setup.set("SESSION_UNCONFIRMED_AGE", "2");
    // The engines take turns elsewhere, but here each of them waits.
    thread::scope(|scope| {
        for engine in Engine::ALL {
            let databases = &databases;
            scope.spawn(move || sessions_expire(&Server::start_in(databases, engine, short)));
        }
    });
}

fn sessions_expire(server: &Server) {
    let cookies: Vec<_> = (0..5).map(|_| server.new_session()).collect();
    for cookie in &cookies {
        until(|| (server.stored_visits(cookie) == 0).then_some(()));
    }
    if server.store() == "memory:" {
        return;
    }
    let kept = ["sqlite", "file", "mysql", "postgres"];
    let stored = kept.iter().any(|kind| server.store().starts_with(kind));
    let cleared = if stored { 5 } else { 0 };
    assert_eq!(
        server.command(&["clearsessions"]),
        format!("{cleared} expired sessions removed")
    );
    if server.store().starts_with("redis") {
        assert_eq!(server.backend().keys(), 0);
    }
}

#[test]
fn the_test_cookie_works_only_in_a_later_request() {
    on_every_engine_probed(|server| {
        let cookie = server.new_session();
        let step = |step: &str| {
            let path = format!("/probe/test-cookie/{step}");
            server.post(&path).cookie(&cookie).send().body
        };
        assert_eq!(step("delete"), "false");
        assert_eq!(step("set"), "false");
        assert_eq!(step("ask"), "true");
        assert_eq!(step("ask"), "true");
        assert_eq!(step("delete"), "false");
        assert_eq!(step("delete"), "false");
        assert_eq!(step("ask"), "false");
    });
}

#[test]
fn two_releases_keep_each_others_fields() {
    let server = Server::probe(Engine::Redis);
    let cookie = server.new_session();
    let key = server.backend().ask(&["randomkey"]);
    // Another release writes a field that this one does not know. It uses the record's own encoding, and keeps the
    // other fields.
    let store = StoreUrl::parse(server.store()).expect("a store");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let field = |name: &str| {
        runtime.block_on(async {
            let store = store::open(&StoreOptions::new(store.clone()))
                .await
                .expect("a store");
            let id = key.strip_prefix("tally:").expect("the prefix");
            let id = id.parse().expect("an id");
            let mut record = store.load(&id).await.expect("asked").expect("a record");
            let visitor = &mut record.data.get_mut("tally").expect("a session")["state"];
            let found = visitor[name].clone();
            visitor[name] = "blue".into();
            store.save(&record).await.expect("saved");
            found
        })
    };
    assert!(field("favourite").is_null());
    assert_eq!(server.visit(&cookie), 2);
    let theme = server.post("/api/theme").body("theme=dark").cookie(&cookie);
    assert_eq!(theme.send().status, 200);
    assert_eq!(field("favourite"), "blue");
    assert_eq!(server.visit(&cookie), 3);
}

#[test]
fn the_id_can_travel_in_a_header() {
    let server = Server::start_as(Engine::Redis, |setup| {
        setup.set("SESSION_HEADER", "x-auth-token")
    });
    let by_cookie = server.new_session();
    let visit = |name: &str, value: &str, cookie: &str| {
        let call = server.post("/api/visit").header(name, value).cookie(cookie);
        // The check for other sites applies only to sessions in cookies.
        call.header("sec-fetch-site", "cross-site").send()
    };
    let first = visit("x-auth-token", "", &by_cookie);
    assert_eq!((first.status, first.count()), (200, Some(1)), "{by_cookie}");
    assert_eq!(first.header("set-cookie"), None);
    let id = first.header("x-auth-token").expect("an id").to_owned();
    assert_eq!(
        visit("x-auth-token", &id, &by_cookie).count(),
        Some(2),
        "the header must win"
    );
    assert_eq!(
        visit("x-other", &id, &by_cookie).status,
        403,
        "another site must not use the cookie"
    );
    let bearer = server
        .post("/api/visit")
        .header("authorization", &format!("Bearer {id}"));
    assert_eq!(bearer.send().count(), Some(3));
    assert_eq!(
        server.visit(&by_cookie),
        2,
        "the cookie must keep its own session"
    );
}

#[test]
fn the_settings_can_partition_the_cookie() {
    let server = Server::start_as(Engine::Memory, |setup| {
        setup
            .set("SESSION_COOKIE_PARTITIONED", "true")
            .set("SESSION_COOKIE_SECURE", "true")
    });
    let set_cookie = server.get("/").send();
    let set_cookie = set_cookie.header("set-cookie").expect("a cookie");
    assert!(
        set_cookie.contains("; Secure; Partitioned; Path=/"),
        "{set_cookie}"
    );
}

#[test]
fn renewals_are_at_least_an_interval_apart() {
    let server = Server::start_as(Engine::Redis, |setup| {
        setup
            .set("SESSION_SAVE_EVERY_REQUEST", "true")
            .set("SESSION_RENEW_INTERVAL", "3600")
    });
    let cookie = server.new_session();
    let about = || server.get("/about").cookie(&cookie).send();
    assert!(
        about().header("set-cookie").is_some(),
        "the first save confirms the cookie"
    );
    assert_eq!(
        about().header("set-cookie"),
        None,
        "the session was saved a moment ago"
    );
}

#[test]
fn bytes_that_http_forbids_in_headers_are_refused() {
    let server = Server::start(Engine::Memory);
    for cookie in [&b"sessionid=\0"[..], b"sessionid=a\rb", b"sessionid=a\nb"] {
        let mut stream = TcpStream::connect(server.address()).expect("connected");
        let request = [
            &b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: "[..],
            cookie,
            b"\r\n\r\n",
        ];
        stream.write_all(&request.concat()).expect("sent");
        let mut response = Vec::new();
        stream.read_to_end(&mut response).expect("a response");
        let response = String::from_utf8_lossy(&response);
        assert!(response.starts_with("HTTP/1.1 400"), "{response}");
    }
    assert_eq!(server.get("/").send().status, 200);
}
