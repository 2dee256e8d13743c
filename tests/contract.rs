//! What a browser, a proxy and an operator see: the real binary, over HTTP, on every engine.

mod support;

use support::{Engine, Server, cookie_of};

/// Runs a promise on every engine.
fn on_every_engine(promise: impl Fn(&Server)) {
    for engine in Engine::ALL {
        let server = Server::start(engine);
        eprintln!("on {engine:?}");
        promise(&server);
    }
}

#[test]
fn a_page_that_never_touches_the_session_leaves_the_cookie_alone() {
    on_every_engine(|server| {
        for path in ["/nowhere", "/health", "/robots.txt"] {
            for cookie in ["", "sessionid=0123456789abcdef0123456789abcdef"] {
                let answer = server.get(path).cookie(cookie).send();
                assert_eq!(answer.header("set-cookie"), None, "{path}");
                assert!(!answer.varies_by_cookie(), "{path}");
            }
        }
    });
}

#[test]
fn reading_without_a_cookie_stores_nothing() {
    on_every_engine(|server| {
        let answer = server.get("/about").send();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("set-cookie"), None);
        assert!(answer.varies_by_cookie());
        assert_eq!(answer.header("cache-control"), Some("private, no-store"));
    });
}

#[test]
fn reading_an_unknown_id_removes_the_cookie() {
    on_every_engine(|server| {
        let cookie = "sessionid=0123456789abcdef0123456789abcdef";
        let answer = server.get("/about").cookie(cookie).send();
        assert_eq!(
            answer.header("set-cookie"),
            Some("sessionid=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0")
        );
        assert!(answer.varies_by_cookie());
    });
}

#[test]
fn the_first_write_sets_the_cookie_and_the_next_keeps_its_id() {
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
fn a_client_can_not_choose_its_id() {
    on_every_engine(|server| {
        let chosen = "sessionid=0123456789abcdef0123456789abcdef";
        let answer = server.get("/").cookie(chosen).send();
        let set = answer.header("set-cookie").expect("a cookie");
        assert_ne!(cookie_of(set), chosen);
        assert_eq!(answer.visits(), 1);
    });
}

#[test]
fn malformed_cookies_are_no_session() {
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
            let answer = server.get("/").cookie_bytes(cookie).send();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.visits(), 1);
        }
    });
}

#[test]
fn the_valid_one_of_two_cookies_wins_wherever_it_stands() {
    on_every_engine(|server| {
        let own = server.new_session();
        let foreign = "sessionid=0123456789abcdef0123456789abcdef";
        let orders = [
            format!("{own}; {foreign}"),
            format!("{foreign}; {own}"),
            format!("a=b; sessionid=x; {own}; c=d"),
            format!("sessionid=\"{}\"", &own["sessionid=".len()..]),
        ];
        for (turn, cookies) in (2..).zip(orders) {
            let answer = server.get("/").cookie(&cookies).send();
            assert_eq!(answer.visits(), turn, "{cookies}");
            assert_eq!(
                answer.header("set-cookie").map(cookie_of),
                Some(own.clone())
            );
        }
    });
}

#[test]
fn looking_ahead_counts_nothing() {
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
                let answer = request.send();
                assert_eq!(answer.status, 200);
                assert_eq!(answer.header("set-cookie"), None);
                if !cookie.is_empty() {
                    assert_eq!(server.get("/").cookie(&cookie).send().visits(), 2);
                }
            }
        }
    });
}

#[test]
fn concurrent_visits_are_counted_each_with_its_own_number() {
    on_every_engine(|server| {
        let cookie = server.new_session();
        let mut numbers: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        let visit = || server.post("/api/visit").cookie(&cookie).send();
                        (0..10)
                            .map(|_| visit().body.parse().expect("a number"))
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
fn forms_without_script_come_back_by_303_and_are_counted_once() {
    on_every_engine(|server| {
        let cookie = server.new_session();
        for (path, visits) in [("/api/visit", 2), ("/api/reset", 0)] {
            let answer = server
                .post(path)
                .cookie(&cookie)
                .header("accept", "text/html")
                .header("referer", &server.url("/?__path=x&__err=y"))
                .send();
            assert_eq!(answer.status, 303);
            assert_eq!(answer.header("location"), Some("/"));
            assert_eq!(server.get("/").cookie(&cookie).send().visits(), visits);
        }
    });
}

#[test]
fn another_site_can_not_change_anything() {
    let server = Server::start(Engine::Memory);
    let cookie = server.new_session();
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
    ] {
        let answer = server
            .post("/api/reset")
            .cookie(&cookie)
            .header(name, value)
            .send();
        assert_eq!(answer.status, 403, "{name}: {value}");
        assert_eq!(answer.header("set-cookie"), None);
    }
    let linked = server
        .get("/reset")
        .cookie(&cookie)
        .header("sec-fetch-site", "cross-site")
        .send();
    assert!(linked.body.contains("Reset your visit count to 0?"));
    assert_eq!(server.get("/").cookie(&cookie).send().visits(), 2);
    let own = server
        .get("/reset")
        .cookie(&cookie)
        .header("sec-fetch-site", "same-origin")
        .send();
    assert!(own.body.contains("Visit count has been reset to 0"));
    assert_eq!(server.get("/").cookie(&cookie).send().visits(), 1);
}

#[test]
fn every_path_has_its_answer() {
    let server = Server::start(Engine::Memory);
    for (path, status, location) in [
        ("/about/", 308, Some("/about")),
        ("/reset/", 308, Some("/reset")),
        ("/nowhere", 404, None),
        ("/pkg/nothing.js", 404, None),
    ] {
        let answer = server.get(path).send();
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("location"), location, "{path}");
    }
    let large = server.post("/api/visit").body(&"x".repeat(100_000)).send();
    assert_eq!(large.status, 413);
}

#[test]
fn sessions_survive_a_restart() {
    for engine in [Engine::Sqlite, Engine::Redis] {
        let mut server = Server::start(engine);
        let cookie = server.new_session();
        server.restart();
        assert_eq!(server.get("/").cookie(&cookie).send().visits(), 2);
    }
}

#[test]
fn the_store_holds_no_id_that_a_cookie_could_carry() {
    let server = Server::start(Engine::Sqlite);
    let cookie = server.new_session();
    let id = cookie["sessionid=".len()..].to_owned();
    let dump: Vec<u8> = server
        .files()
        .iter()
        .flat_map(|file| std::fs::read(file).expect("a readable file"))
        .collect();
    assert!(!dump.is_empty());
    assert!(!dump.windows(id.len()).any(|part| part == id.as_bytes()));
}

#[test]
fn two_servers_on_one_redis_share_a_session() {
    let first = Server::start(Engine::Redis);
    let second = first.beside();
    let cookie = first.new_session();
    let servers = [&first, &second];
    let mut numbers: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..16)
            .map(|worker| {
                let server = servers[worker % 2];
                let cookie = &cookie;
                scope.spawn(move || {
                    (0..10)
                        .map(|_| server.post("/api/visit").cookie(cookie).send())
                        .map(|answer| answer.body.parse().expect("a number"))
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
}

#[test]
fn redis_gone_is_a_page_with_503_and_redis_back_needs_no_restart() {
    let server = Server::start(Engine::Redis);
    let cookie = server.new_session();
    server.keeper().stop();
    let page = server.get("/").cookie(&cookie).send();
    assert_eq!(page.status, 503);
    assert!(page.body.contains("can&#x27;t be reached") || page.body.contains("can't be reached"));
    assert_eq!(page.header("retry-after"), Some("2"));
    assert_eq!(page.header("set-cookie"), None);
    let call = server.post("/api/visit").cookie(&cookie).send();
    assert_eq!(call.status, 503);
    server.keeper().start_again();
    let answer = server.until_up("/", &cookie);
    assert_eq!(answer.visits(), 2);
}
