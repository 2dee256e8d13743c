//! The operator's console: what it shows, and what its actions do.

use std::{collections::BTreeSet, io::Write, net::TcpStream, sync::Arc};

use crate::support::{Backend, Databases, Engine, Server, console::*, cookie_of, until};

/// The lists of the sessions in Redis: by the time they expire, and by short id. The second key has kept an older name.
const SESSIONS: &str = "tally:{console}:sessions";
const SHORT_IDS: &str = "tally:{console}:labels";

/// Sends a form without waiting for the response.
fn send(server: &Server, path: &str, cookie: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).expect("connected");
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

/// Waits until the log has a line that contains `text`, and returns the line.
fn until_line(server: &Server, text: &str) -> String {
    until(|| {
        let log = server.log();
        let mut lines = log.lines();
        lines.find(|line| line.contains(text)).map(str::to_owned)
    })
}

/// The engines that can list their sessions.
const LISTING: [Engine; 5] = [
    Engine::Redis,
    Engine::MariaDb,
    Engine::Postgres,
    Engine::Sqlite,
    Engine::Memory,
];

#[test]
fn a_revoked_session_ends_at_its_next_request_and_its_pages_are_notified() {
    let databases = Databases::shared();
    for engine in LISTING {
        let server = Server::start_in(&databases, engine, with_console);
        // If the engine notifies other servers, the victim is on another one.
        let is_shared = matches!(engine, Engine::Redis | Engine::Postgres);
        let other = is_shared.then(|| server.beside());
        let visited = other.as_ref().unwrap_or(&server);
        let operator = sign_in(&server, "");
        let victim = visited.new_session();
        visited.visit(&victim);
        let mut stream = Stream::open(visited, "/live", &victim);
        stream.until("\"visits\":2,");
        let short_id = until(|| others(&page(&server, "/admin/sessions", &operator)).pop());
        let revoke = format!("/admin/sessions/{short_id}/revoke");
        let response = server.post(&revoke).cookie(&operator).send();
        assert_eq!(response.status, 303);
        stream.until("\"ended\"");
        let list = page(&server, "/admin/sessions", &operator);
        assert!(list.contains(&format!("The session {short_id} has been revoked.")));
        assert_eq!(
            visited.stored_visits(&victim),
            0,
            "{engine:?}: the session is alive"
        );
        assert_eq!(visited.visit(&victim), 1, "{engine:?}: not a new session");
        // A second click does no harm, and the operator stays signed in.
        server.post(&revoke).cookie(&operator).send();
        let list = page(&server, "/admin/sessions", &operator);
        assert!(list.contains("That session has ended, or its id has changed."));
        page(&server, "/admin", &operator);
    }
}

#[test]
fn all_sessions_but_the_operators_are_revoked() {
    let databases = Databases::shared();
    for engine in LISTING {
        let server = Server::start_in(&databases, engine, with_console);
        let operator = sign_in(&server, "");
        let victims: Vec<_> = (0..1_200).map(|_| server.new_session()).collect();
        if engine == Engine::Redis {
            // Other programs' keys stay, even if their names look like those of sessions.
            server
                .backend()
                .ask(&["set", "AAAAAAAAAAAAAAAAAAAAAA", "theirs"]);
            server
                .backend()
                .ask(&["rpush", "BAAAAAAAAAAAAAAAAAAAAA", "theirs"]);
        }
        let response = server.post("/admin/revoke-others").cookie(&operator).send();
        assert_eq!(response.status, 303, "{}", response.body);
        let list = page(&server, "/admin/sessions", &operator);
        assert!(
            list.contains("1,200 sessions revoked."),
            "{engine:?}: {list}"
        );
        for victim in victims.iter().step_by(100) {
            assert_eq!(server.stored_visits(victim), 0, "{engine:?}");
        }
        until_tile(&server, &operator, "sessions alive", 1);
        until_tile(&server, &operator, "sessions ended today", 1_200);
        if engine == Engine::Redis {
            assert_eq!(
                server.backend().ask(&[
                    "exists",
                    "AAAAAAAAAAAAAAAAAAAAAA",
                    "BAAAAAAAAAAAAAAAAAAAAA"
                ]),
                "2"
            );
        }
        assert!(server.log().contains("sessions=1200"), "{}", server.log());
    }
}

#[test]
fn the_list_has_pages_and_a_search_by_short_id() {
    let databases = Databases::shared();
    for engine in LISTING {
        let server = Server::start_in(&databases, engine, with_console);
        let operator = sign_in(&server, "");
        for _ in 0..119 {
            server.new_session();
        }
        until_tile(&server, &operator, "sessions alive", 120);
        let pages: Vec<_> = (1..=4)
            .map(|number| {
                page(
                    &server,
                    &format!("/admin/sessions?page={number}"),
                    &operator,
                )
            })
            .collect();
        let sizes: Vec<_> = pages.iter().map(|page| short_ids(page).len()).collect();
        assert_eq!(sizes, [50, 50, 20, 0], "{engine:?}");
        let far = format!("/admin/sessions?page={}", u64::MAX);
        assert!(short_ids(&page(&server, &far, &operator)).is_empty());
        assert!(
            pages[1].contains("Page 2 of 3, 120 sessions"),
            "{}",
            pages[1]
        );
        assert!(
            pages[1].contains("page=1\" rel=\"prev\"")
                && pages[1].contains("page=3\" rel=\"next\"")
        );
        let all: BTreeSet<_> = pages.iter().flat_map(|page| short_ids(page)).collect();
        assert_eq!(all.len(), 120, "{engine:?}: each must be listed once");
        for short_id in all.iter().step_by(30) {
            let search = |text: &str| {
                short_ids(&page(
                    &server,
                    &format!("/admin/sessions?short_id={text}"),
                    &operator,
                ))
            };
            assert_eq!(search(short_id), [short_id.as_str()]);
            let expected = all
                .iter()
                .filter(|other| other.starts_with(&short_id[..2]))
                .count();
            assert_eq!(search(&short_id[..2]).len(), expected, "{engine:?}");
        }
        for nothing in ["zzzzzzzzzz", "%00", "*", "%5B", "a+b", "0123456789abcdef"] {
            let list = page(
                &server,
                &format!("/admin/sessions?short_id={nothing}"),
                &operator,
            );
            assert_eq!(short_ids(&list).len(), 0, "{nothing}");
        }
        let missing = server
            .get("/admin/sessions/zzzzzzzzzz")
            .cookie(&operator)
            .send();
        assert_eq!(missing.status, 404);
    }
}

#[test]
fn the_sessions_of_a_user_are_found_by_the_name() {
    let databases = Databases::shared();
    for engine in LISTING {
        let server = Server::start_in(&databases, engine, |setup| with_console(setup).probe());
        let operator = sign_in(&server, "");
        server.new_session();
        let search = |user: &str| page(&server, &format!("/admin/sessions?user={user}"), &operator);
        assert_eq!(short_ids(&search("ada")).len(), 0);
        let mut members = BTreeSet::new();
        for _ in 0..2 {
            let done = server.post("/probe/sign-in/200").send();
            members.insert(cookie_of(done.header("set-cookie").expect("a cookie")));
        }
        let found = search("ada");
        assert_eq!(short_ids(&found).len(), 2, "{engine:?}: {found}");
        let one = short_ids(&found).remove(0);
        // The server updates Redis's list of all sessions once a second.
        let path = format!("/admin/sessions/{one}");
        let seen = until(|| {
            let seen = server.get(&path).cookie(&operator).send();
            (seen.status == 200).then_some(seen.body)
        });
        assert!(seen.contains("<dd>ada (members)</dd>"), "{seen}");
        server
            .post(&format!("/admin/sessions/{one}/revoke"))
            .cookie(&operator)
            .send();
        assert_eq!(short_ids(&search("ada")).len(), 1, "{engine:?}");
        let is_member =
            |cookie: &String| server.get("/probe/signed-in").cookie(cookie).send().body == "true";
        assert_eq!(members.iter().filter(|cookie| is_member(cookie)).count(), 1);
        assert_eq!(short_ids(&search("operator")).len(), 1);
        assert_eq!(short_ids(&search("nobody")).len(), 0);
    }
}

#[test]
fn values_are_masked_until_the_operator_reveals_them() {
    let databases = Databases::shared();
    for engine in LISTING {
        let server = Server::start_in(&databases, engine, with_console);
        let operator = sign_in(&server, "");
        let victim = server.new_session();
        let draft = "<b>secret</b>";
        let response = server
            .post("/api/draft")
            .cookie(&victim)
            .body("draft=%3Cb%3Esecret%3C%2Fb%3E")
            .send();
        assert_eq!(response.status, 200);
        let short_id = until(|| others(&page(&server, "/admin/sessions", &operator)).pop());
        let masked = page(&server, &format!("/admin/sessions/{short_id}"), &operator);
        assert!(masked.contains("text, 13 characters") && !masked.contains("secret"));
        let reveal = server
            .post(&format!("/admin/sessions/{short_id}/reveal"))
            .cookie(&operator)
            .send();
        assert!(
            reveal.body.contains("&lt;b&gt;secret&lt;/b&gt;"),
            "{}",
            reveal.body
        );
        assert!(!reveal.body.contains(draft), "the value is not escaped");
        let log = server.log();
        let line = log
            .lines()
            .find(|line| line.contains("values revealed"))
            .expect("a line");
        assert!(line.contains(&short_id) && !log.contains("secret"), "{log}");
    }
}

#[test]
fn the_overview_adds_up_over_servers_and_survives_a_restart() {
    for engine in [
        Engine::Redis,
        Engine::Postgres,
        Engine::MariaDb,
        Engine::Sqlite,
    ] {
        the_overview_adds_up(engine);
    }
}

fn the_overview_adds_up(engine: Engine) {
    let databases = Databases::shared();
    let mut first = Server::start_in(&databases, engine, with_console);
    let second = first.beside();
    let operator = sign_in(&first, "");
    for server in [&first, &second] {
        for _ in 0..10 {
            let cookie = server.new_session();
            first.visit(&cookie);
            second.visit(&cookie);
        }
    }
    let forgotten = first.new_session();
    first.post("/api/delete").cookie(&forgotten).send();
    for (name, expected) in [
        ("visits today", 61),
        ("sessions created today", 22),
        ("sessions ended today", 1),
        ("sessions alive", 21),
    ] {
        until_tile(&second, &operator, name, expected);
    }
    until_visitors(&second, &operator, 22);
    let overview = page(&second, "/admin", &operator);
    assert_eq!(overview.matches("role=\"img\"").count(), 7);
    assert_eq!(overview.matches("<svg").count(), 7);
    assert!(!overview.contains("keeps no counts"));
    let answered = second.get("/admin").cookie(&operator).send();
    let policy = answered
        .header("content-security-policy")
        .expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    first.restart();
    until_tile(&first, &operator, "visits today", 61);
    if engine != Engine::Redis {
        return;
    }
    let keys = first.backend().ask(&["--raw", "keys", "tally:{console}:*"]);
    for kind in ["counts", "active"] {
        let keys: Vec<_> = keys.lines().filter(|key| key.contains(kind)).collect();
        assert!(!keys.is_empty(), "no {kind}");
        for key in keys {
            let ttl = first.backend().ask(&["ttl", key]);
            let seconds: i64 = ttl.parse().expect("a number");
            assert!(seconds > 0, "{key} never expires");
        }
    }
}

#[test]
fn a_failed_response_counts_no_visit() {
    let server = Server::start_as(Engine::Redis, |setup| with_console(setup).probe());
    let operator = sign_in(&server, "");
    let cookie = server.new_session();
    assert_eq!(
        server
            .post("/probe/write/500")
            .cookie(&cookie)
            .send()
            .status,
        500
    );
    assert_eq!(
        server
            .post("/probe/write/200")
            .cookie(&cookie)
            .send()
            .status,
        200
    );
    until_tile(&server, &operator, "visits today", 2);
    until_tile(&server, &operator, "sessions alive", 2);
}

#[test]
fn the_console_states_what_an_engine_lacks() {
    let databases = Databases::shared();
    for engine in Engine::ALL {
        let server = Server::start_in(&databases, engine, with_console);
        let operator = sign_in(&server, "");
        server.new_session();
        until_tile(&server, &operator, "visits today", 1);
        let overview = page(&server, "/admin", &operator);
        let list = page(&server, "/admin/sessions", &operator);
        let shared = !matches!(engine, Engine::Memory | Engine::File | Engine::Memcached);
        let has_list = !matches!(engine, Engine::File | Engine::Memcached);
        assert_eq!(overview.contains("keeps no counts"), !shared, "{engine:?}");
        assert_eq!(
            overview.contains("<dt>active sessions today</dt><dd>unknown"),
            !shared,
            "{engine:?}"
        );
        assert_eq!(
            overview.contains("can't notify other servers")
                || overview.contains("can&#x27;t notify other servers"),
            !matches!(engine, Engine::Redis | Engine::Postgres),
            "{engine:?}"
        );
        assert_eq!(
            overview.contains("can't tell how many sessions are alive"),
            !has_list,
            "{engine:?}"
        );
        assert_eq!(
            list.contains("has no list of its sessions"),
            !has_list,
            "{engine:?}"
        );
        assert_eq!(short_ids(&list).is_empty(), !has_list, "{engine:?}");
        if !has_list {
            let response = server.post("/admin/revoke-others").cookie(&operator).send();
            assert_eq!(response.status, 404);
        }
    }
}

#[test]
fn sessions_older_than_the_console_are_listed() {
    let without = Server::start(Engine::Redis);
    let cookies: Vec<_> = (0..30).map(|_| without.new_session()).collect();
    assert_eq!(
        without.backend().keys(),
        30,
        "a server without a console must store nothing for it"
    );
    let server = without.beside_as(with_console);
    let operator = sign_in(&server, "");
    until_tile(&server, &operator, "sessions alive", 31);
    assert_eq!(
        short_ids(&page(&server, "/admin/sessions", &operator)).len(),
        31
    );
    assert_eq!(server.visit(&cookies[0]), 2);
    // A server without a console creates another session. The next server with a console lists it when it starts.
    let completed = || {
        server
            .backend()
            .ask(&["exists", "tally:{console}:completed"])
    };
    until(|| (completed() == "1").then_some(()));
    without.new_session();
    let later = server.beside();
    until_tile(&later, &operator, "sessions alive", 32);
}

#[test]
fn expired_sessions_leave_the_list() {
    let server = Server::start_as(Engine::Redis, |setup| {
        with_console(setup).set("SESSION_UNCONFIRMED_AGE", "1")
    });
    let operator = sign_in(&server, "");
    page(&server, "/admin", &operator);
    for _ in 0..5 {
        server.new_session();
    }
    until_tile(&server, &operator, "sessions created today", 6);
    until_tile(&server, &operator, "sessions alive", 1);
    let listed = short_ids(&page(&server, "/admin/sessions", &operator));
    assert_eq!(listed.len(), 1, "{listed:?}");
    // Both of these are overdue in the lists. The second is alive: a server without a console has extended it.
    let backend = server.backend();
    let prolonged = backend.ask(&["zrevrange", SESSIONS, "0", "0"]);
    let gone = "AAAAAAAAAAAAAAAAAAAAAA";
    for list in [SESSIONS, SHORT_IDS] {
        backend.ask(&["zadd", list, "1000000000", gone, "1000000000", &prolonged]);
    }
    assert_eq!(
        server.command(&["clearsessions"]),
        "1 expired sessions removed",
        "only sessions that have ended may count"
    );
    for list in [SESSIONS, SHORT_IDS] {
        assert_eq!(backend.ask(&["zscore", list, gone]), "", "{list}");
    }
    let left: i64 = backend.ask(&["ttl", &prolonged]).parse().expect("a number");
    let ends: i64 = backend
        .ask(&["zscore", SESSIONS, &prolonged])
        .parse()
        .expect("a number");
    assert!(
        ends > 1_000_000_000 + left,
        "the list must have the session's own expiry"
    );
    until_tile(&server, &operator, "sessions alive", 1);
}

#[test]
fn a_cluster_has_a_console() {
    let masters = Backend::cluster(3, 0, &["--cluster-enabled", "yes", "--cluster-port", "0"]);
    let store = format!("redis-cluster://127.0.0.1:{}", masters[0].port);
    let server = Server::on(&store, with_console);
    let operator = sign_in(&server, "");
    let victims: Vec<_> = (0..60).map(|_| server.new_session()).collect();
    until_tile(&server, &operator, "sessions alive", 61);
    until_visitors(&server, &operator, 61);
    let response = server.post("/admin/revoke-others").cookie(&operator).send();
    assert_eq!(response.status, 303, "{}", response.body);
    until_tile(&server, &operator, "sessions alive", 1);
    for victim in &victims {
        assert_eq!(server.stored_visits(victim), 0);
    }
    let later = Server::on(&store, with_console);
    until_tile(&later, &operator, "sessions alive", 1);
}

#[test]
fn the_console_reports_a_redis_outage_and_recovers() {
    let server = Server::start_as(Engine::Redis, with_console);
    let operator = sign_in(&server, "");
    server.new_session();
    until_tile(&server, &operator, "sessions alive", 2);
    server.backend().stop();
    for path in ["/admin", "/admin/sessions"] {
        let response = server.get(path).cookie(&operator).send();
        assert_eq!(response.status, 503, "{path}");
        assert!(response.header("retry-after").is_some());
    }
    assert_eq!(
        try_password(&server, "", "wrong").status,
        403,
        "a wrong password needs no store"
    );
    let right = try_password(&server, "", PASSWORD);
    assert_eq!((right.status, right.header("set-cookie")), (503, None));
    let log = server.log();
    let failed = log.lines().find(|line| line.contains("audit: failed"));
    assert!(
        failed.is_some_and(|line| line.contains("signed in")),
        "{log}"
    );
    server.backend().start_again();
    server.until_up("/admin", &operator);
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    until_tile(&server, &operator, "sessions alive", 3);
}

#[test]
fn each_action_is_logged_without_secrets() {
    let server = Server::start_as(Engine::Memory, behind_a_proxy);
    try_from(&server, "203.0.113.9", "", "a wrong password, typed");
    let operator = sign_in(&server, "");
    server.new_session();
    let list = page(&server, "/admin/sessions", &operator);
    let short_id = others(&list).pop().expect("a session");
    page(
        &server,
        &format!("/admin/sessions?short_id={short_id}"),
        &operator,
    );
    page(&server, &format!("/admin/sessions/{short_id}"), &operator);
    for action in ["reveal", "revoke"] {
        server
            .post(&format!("/admin/sessions/{short_id}/{action}"))
            .cookie(&operator)
            .send();
    }
    server.post("/admin/revoke-others").cookie(&operator).send();
    let out = server.post("/admin/sign-out").cookie(&operator).send();
    let after = cookie_of(out.header("set-cookie").expect("a cookie"));
    let again = sign_in(&server, &after);
    server
        .post("/admin/sign-out-everywhere")
        .cookie(&again)
        .send();
    let log = server.log();
    let actions = [
        "wrong password",
        "signed in",
        "sessions listed",
        "sessions searched",
        "session viewed",
        "values revealed",
        "session revoked",
        "all other sessions to be revoked",
        "all other sessions revoked",
        "signed out",
        "signed out everywhere",
    ];
    for action in actions {
        let line = log
            .lines()
            .find(|line| line.contains(&format!("action=\"{action}\"")));
        let line = line.unwrap_or_else(|| panic!("no {action}: {log}"));
        assert!(line.contains("audit") && line.contains(" id="), "{line}");
        assert_eq!(
            line.contains("operator="),
            action != "wrong password",
            "{line}"
        );
        assert_eq!(
            line.contains("address=203.0.113.9"),
            action == "wrong password",
            "{line}"
        );
    }
    let ids = [&operator, &after, &again].map(|cookie| cookie.trim_start_matches("sessionid="));
    for secret in ids.into_iter().chain([PASSWORD, "typed", "argon2"]) {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
fn an_action_completes_and_is_logged_when_the_browser_disconnects() {
    let server = Server::start_as(Engine::Redis, with_console);
    let operator = sign_in(&server, "");
    let backend = server.backend();
    backend.ask(&["config", "resetstat"]);
    backend.ask(&["client", "pause", "1000", "write"]);
    let stream = send(&server, "/admin/sign-out", &operator);
    // The server has read the session and the account. The write waits for Redis.
    until(|| {
        let commands = backend.ask(&["info", "commandstats"]);
        let (_, calls) = commands.split_once("cmdstat_get:calls=")?;
        let calls: u32 = calls.split(',').next()?.parse().ok()?;
        (calls >= 2).then_some(())
    });
    drop(stream);
    let line = until_line(&server, "action=\"signed out\"");
    assert!(!line.contains("failed"), "{line}");
    let response = server.get("/admin").cookie(&operator).send();
    assert!(is_sign_in(&response.body));
}

#[test]
fn an_action_that_a_stop_interrupts_is_logged() {
    let mut server = Server::start_as(Engine::Redis, with_console);
    let operator = sign_in(&server, "");
    let backend = Arc::clone(server.shared_backend());
    backend.ask(&["client", "pause", "20000", "write"]);
    let stream = send(&server, "/admin/revoke-others", &operator);
    until_line(&server, "all other sessions to be revoked");
    drop(stream);
    server.stop("TERM");
    let log = server.log();
    let line = log
        .lines()
        .find(|line| line.contains("action=\"all other sessions revoked\""));
    assert!(
        line.is_some_and(|line| line.contains("audit: failed")),
        "{log}"
    );
}

#[test]
fn slow_console_writes_block_no_visitor() {
    let mut first = Server::start_as(Engine::Redis, with_console);
    let cookie = first.new_session();
    first.stop("TERM");
    let backend = first.backend();
    backend.ask(&["client", "pause", "20000", "write"]);
    // The new server first completes the list of sessions, which Redis blocks.
    let server = first.beside();
    until(|| {
        let clients = backend.ask(&["client", "list"]);
        clients.contains("flags=b").then_some(())
    });
    for _ in 0..8 {
        let read = server.get("/").header("sec-purpose", "prefetch");
        let response = read.cookie(&cookie).send();
        assert_eq!(response.status, 200);
        assert_eq!(response.visits(), 1);
    }
}

#[test]
fn a_late_batch_of_statistics_counts_once() {
    let server = Server::start_as(Engine::Redis, |setup| {
        with_console(setup).set("TALLY_LOG", "debug")
    });
    let operator = sign_in(&server, "");
    let cookie = server.new_session();
    for _ in 0..9 {
        server.visit(&cookie);
    }
    // The server gives up the batch after two seconds, but Redis still executes it after the pause.
    server.backend().ask(&["client", "pause", "8000", "write"]);
    until(|| {
        server.get("/about").cookie(&cookie).send();
        server
            .log()
            .contains("what happened could not be written down")
            .then_some(())
    });
    server.until_up("/admin", &operator);
    until_tile(&server, &operator, "visits today", 10);
    server.visit(&cookie);
    until_tile(&server, &operator, "visits today", 11);
}

#[test]
fn one_page_too_many_replaces_the_oldest() {
    let server = Server::start_as(Engine::Memory, with_console);
    let operator = sign_in(&server, "");
    let mut pages: Vec<_> = (0..17)
        .map(|_| {
            let mut stream = Stream::open(&server, "/admin/live", &operator);
            stream.until("data-part");
            stream
        })
        .collect();
    pages[0].until("event: replaced");
    // The second-oldest stream still gets events.
    server.new_session();
    pages[1].until("<dt>sessions alive</dt><dd>2<");
}

#[test]
fn revoking_all_sessions_survives_a_restart_of_redis() {
    let server = Server::start_as(Engine::Redis, with_console);
    let operator = sign_in(&server, "");
    let victims: Vec<_> = (0..300).map(|_| server.new_session()).collect();
    let backend = server.backend();
    backend.ask(&["client", "pause", "20000", "write"]);
    let _stream = send(&server, "/admin/revoke-others", &operator);
    until_line(&server, "all other sessions to be revoked");
    backend.stop();
    backend.start_again();
    let line = until_line(&server, "action=\"all other sessions revoked\"");
    assert!(line.contains("sessions=300"), "{line}");
    for victim in victims.iter().step_by(10) {
        assert_eq!(server.stored_visits(victim), 0);
    }
    page(&server, "/admin", &operator);
}
