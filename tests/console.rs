//! The operator's console: who gets in and who does not, what it shows, and what it ends.

mod support;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    process::{Command, Stdio},
    sync::LazyLock,
};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
use support::{Answer, Engine, Keeper, Server, Setup, binary, cookie_of, until};

const PASSWORD: &str = "correct horse battery staple";

/// A hash that is quick to compare: what is tested is not how slow it is.
fn hash(password: &str) -> String {
    let params = Params::new(8, 1, 1, None).expect("parameters");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.as_bytes())
        .expect("a hash")
        .to_string()
}

/// The same for all servers of a test: another hash ends every sign-in.
static HASH: LazyLock<String> = LazyLock::new(|| hash(PASSWORD));

fn with_console(setup: Setup) -> Setup {
    setup.set("TALLY_CONSOLE_PASSWORD_HASH", &HASH)
}

fn behind_a_proxy(setup: Setup) -> Setup {
    with_console(setup).set("TALLY_TRUSTED_PROXIES", "127.0.0.1")
}

fn form(password: &str) -> String {
    format!("account=operator&password={}", password.replace(' ', "+"))
}

/// Tries to sign in.
fn try_password(server: &Server, cookie: &str, password: &str) -> Answer {
    let request = server.post("/admin").cookie(cookie);
    request.body(&form(password)).send()
}

/// Tries from an address that a proxy names.
fn try_from(server: &Server, address: &str, cookie: &str, password: &str) -> Answer {
    let request = server.post("/admin").cookie(cookie);
    let request = request.header("x-forwarded-for", address);
    request.body(&form(password)).send()
}

/// Signs in, and returns the operator's cookie.
fn sign_in(server: &Server, cookie: &str) -> String {
    let answer = try_password(server, cookie, PASSWORD);
    assert_eq!(answer.status, 303, "{}", answer.body);
    assert_eq!(answer.header("location"), Some("/admin"));
    cookie_of(answer.header("set-cookie").expect("a cookie"))
}

/// A page of the console, for somebody who has signed in.
fn page(server: &Server, path: &str, cookie: &str) -> String {
    let answer = server.get(path).cookie(cookie).send();
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    assert!(!is_sign_in(&answer.body), "{path} asks to sign in");
    answer.body
}

fn is_sign_in(body: &str) -> bool {
    body.contains("<h1>Sign in</h1>")
}

/// The same page without what differs each time.
fn without_nonce(answer: &Answer) -> String {
    let mut body = answer.body.clone();
    while let Some((front, rest)) = body.split_once("nonce=\"") {
        let (_, rest) = rest.split_once('"').expect("its end");
        body = format!("{front}nonce{rest}");
    }
    body
}

/// The labels of a list, in its order.
fn labels(list: &str) -> Vec<String> {
    let links = list.split("href=\"/admin/sessions/").skip(1);
    let label = |link: &str| link.split('"').next().map(str::to_owned);
    links.filter_map(label).collect()
}

/// The same without the operator's own.
fn others(list: &str) -> Vec<String> {
    let mut labels = labels(list);
    labels.retain(|label| list.contains(&format!("Revoke {label}")));
    labels
}

/// The number on one of the overview's tiles.
fn tile(overview: &str, name: &str) -> u64 {
    let tile = overview.split_once(&format!("<dt>{name}</dt><dd>"));
    let (_, rest) = tile.unwrap_or_else(|| panic!("no {name}"));
    let digits = rest.split('<').next().unwrap_or_default().replace(',', "");
    digits
        .parse()
        .unwrap_or_else(|_| panic!("{name}: {digits}"))
}

/// Asks until a tile shows this.
fn until_tile(server: &Server, cookie: &str, name: &str, expected: u64) {
    until(|| (tile(&page(server, "/admin", cookie), name) == expected).then_some(()));
}

/// What a stream of the console tells, event by event.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(server: &Server, path: &str, cookie: &str) -> Self {
        Self(BufReader::new(server.stream(path, cookie)))
    }

    /// Reads until a line has this in it.
    fn until(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).expect("within the time");
            assert_ne!(read, 0, "the stream ended before {text}");
            if line.contains(text) {
                return line;
            }
        }
    }
}

#[test]
fn without_a_password_there_is_no_console() {
    let server = Server::start(Engine::Memory);
    let unknown = server.get("/unknown").send();
    for path in ["/admin", "/admin/", "/admin/sessions", "/admin/live"] {
        let answer = server.get(path).send();
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(without_nonce(&answer), without_nonce(&unknown), "{path}");
        assert_eq!(answer.header("vary"), unknown.header("vary"));
    }
    let answer = try_password(&server, "", PASSWORD);
    assert_eq!((answer.status, answer.header("set-cookie")), (404, None));
}

#[test]
fn strangers_see_the_sign_in_page_at_every_address_and_learn_nothing() {
    let server = Server::start_as(Engine::Memory, with_console);
    let operator = sign_in(&server, "");
    let victim = server.new_session();
    let list = page(&server, "/admin/sessions", &operator);
    let label = labels(&list).into_iter().next().expect("a session");
    let paths = [
        "/admin".to_owned(),
        "/admin/".to_owned(),
        "/admin/unknown".to_owned(),
        "/admin/live".to_owned(),
        "/admin/sessions".to_owned(),
        "/admin/sessions/0123456789".to_owned(),
        format!("/admin/sessions/{label}"),
        format!("/admin/sessions/{label}/revoke"),
        format!("/admin/sessions/{label}/reveal"),
        "/admin/revoke-others".to_owned(),
        "/admin/sign-out-everywhere".to_owned(),
    ];
    for cookie in ["", "sessionid=00112233445566778899aabbccddeeff", &victim] {
        let mut seen = BTreeSet::new();
        for path in &paths {
            for method in ["GET", "POST", "PUT", "DELETE"] {
                let answer = server.request(method, path).cookie(cookie).send();
                assert_eq!(answer.status, 200, "{method} {path}");
                assert!(is_sign_in(&answer.body), "{method} {path}");
                assert_eq!(answer.header("x-robots-tag"), Some("noindex"));
                assert_eq!(answer.header("cache-control"), Some("private, no-store"));
                let headers = [
                    "set-cookie",
                    "vary",
                    "session-revision",
                    "content-type",
                    "allow",
                ];
                let headers = headers.map(|name| answer.header(name).map(str::to_owned));
                seen.insert((headers, without_nonce(&answer)));
            }
        }
        assert_eq!(seen.len(), 1, "the pages differ");
    }
    assert_eq!(server.stored_visits(&victim), 1, "nothing was done");
    page(&server, "/admin", &operator);
}

#[test]
fn signing_in_changes_the_id_and_keeps_the_rest() {
    for engine in Engine::ALL {
        let server = Server::start_as(engine, with_console);
        let visitor = server.new_session();
        server.visit(&visitor);
        let wrong = try_password(&server, &visitor, "incorrect horse");
        assert_eq!((wrong.status, wrong.header("set-cookie")), (403, None));
        assert!(wrong.body.contains("This is not the password."));
        let operator = sign_in(&server, &visitor);
        assert_ne!(operator, visitor);
        assert_eq!(server.stored_visits(&operator), 2);
        assert_eq!(server.stored_visits(&visitor), 0, "the old id is alive");
        assert!(is_sign_in(
            &server.get("/admin").cookie(&visitor).send().body
        ));
        page(&server, "/admin", &operator);
        // Signing out keeps the session, too, under another id.
        let out = server.post("/admin/sign-out").cookie(&operator).send();
        let after = cookie_of(out.header("set-cookie").expect("a cookie"));
        assert_ne!(after, operator);
        assert_eq!(server.stored_visits(&after), 2);
        let told = server.get("/admin").cookie(&after).send();
        assert!(is_sign_in(&told.body) && told.body.contains("You have signed out."));
        let again = server.get("/admin").cookie(&after).send();
        assert!(
            !again.body.contains("You have signed out."),
            "a message shows once"
        );
    }
}

#[test]
fn a_sign_in_survives_a_failed_answer() {
    for engine in Engine::ALL {
        let server = Server::start_as(engine, Setup::probe);
        let cookie = server.new_session();
        let is_signed_in =
            |cookie: &str| server.get("/probe/signed-in").cookie(cookie).send().body == "true";
        let failed = server.post("/probe/sign-in/500").cookie(&cookie).send();
        assert_eq!((failed.status, failed.header("set-cookie")), (500, None));
        assert_eq!(server.stored_visits(&cookie), 1, "the session was lost");
        assert!(!is_signed_in(&cookie));
        let done = server.post("/probe/sign-in/200").cookie(&cookie).send();
        let after = cookie_of(done.header("set-cookie").expect("a cookie"));
        assert!(is_signed_in(&after) && !is_signed_in(&cookie));
        assert_eq!(server.stored_visits(&after), 1);
        // Who had no session gets one, but not from a failed answer.
        let failed = server.post("/probe/sign-in/500").send();
        assert_eq!(failed.header("set-cookie"), None);
        let done = server.post("/probe/sign-in/200").send();
        assert!(is_signed_in(&cookie_of(
            done.header("set-cookie").expect("a cookie")
        )));
    }
}

#[test]
fn passwords_are_tried_only_so_often_and_nobody_locks_the_operator_out() {
    let server = Server::start_as(Engine::Memory, behind_a_proxy);
    let known = {
        let answer = try_from(&server, "198.51.100.1", "", PASSWORD);
        let operator = cookie_of(answer.header("set-cookie").expect("signed in"));
        let out = server.post("/admin/sign-out").cookie(&operator).send();
        cookie_of(out.header("set-cookie").expect("a cookie"))
    };
    // One address.
    for _ in 0..5 {
        assert_eq!(try_from(&server, "203.0.113.1", "", "wrong").status, 403);
    }
    let held = try_from(&server, "203.0.113.1", "", PASSWORD);
    assert_eq!(held.status, 429, "even with the right password");
    assert!(held.header("retry-after").is_some() && held.header("set-cookie").is_none());
    assert!(held.body.contains("Too many passwords were tried."));
    // All addresses together.
    let attempt =
        |number: u32| try_from(&server, &format!("203.0.113.{number}"), "", "wrong").status;
    let refused = (2..40).find(|number| attempt(*number) == 429);
    assert_eq!(refused, Some(16), "after twenty attempts of strangers");
    assert_eq!(try_from(&server, "198.51.100.2", "", PASSWORD).status, 429);
    // The operator's browser, and the server's own machine.
    assert_eq!(
        try_from(&server, "198.51.100.3", &known, PASSWORD).status,
        303
    );
    assert_eq!(
        try_from(&server, "127.0.0.1", "", PASSWORD).status,
        429,
        "what a proxy speaks for is not the server's own machine"
    );
    assert_eq!(try_password(&server, "", PASSWORD).status, 303);
    let log = server.log();
    assert!(log.contains("too many attempts"), "{log}");
    assert!(log.matches("too many attempts").count() <= 6, "a line each");
}

#[test]
fn the_servers_own_machine_reaches_the_console_by_any_host_name() {
    let server = Server::start_as(Engine::Memory, |setup| {
        with_console(setup).set("TALLY_ALLOWED_HOSTS", "shop.example")
    });
    let status = |path: &str, forwarded: bool| {
        let request = server.get(path);
        let request = if forwarded {
            request.header("x-forwarded-for", "192.0.2.1")
        } else {
            request
        };
        request.send().status
    };
    assert_eq!(status("/admin", false), 200);
    assert_eq!(status("/admin", true), 421, "a proxy's visitor");
    assert_eq!(status("/", false), 421);
    page(&server, "/admin", &sign_in(&server, ""));
}

#[test]
fn a_sign_in_ends_when_it_is_not_used() {
    let server = Server::start_as(Engine::Memory, |setup| {
        with_console(setup).set("TALLY_CONSOLE_IDLE_AGE", "2")
    });
    let operator = sign_in(&server, "");
    let mut stream = Stream::open(&server, "/admin/live", &operator);
    stream.until("data-part");
    stream.until("event: ended");
    let answer = server.get("/admin/sessions").cookie(&operator).send();
    assert!(is_sign_in(&answer.body) && answer.body.contains("not used for a while"));
    assert!(server.log().contains("sign-in ended"));
}

#[test]
fn a_sign_in_ends_by_its_age_however_much_it_is_used() {
    let server = Server::start_as(Engine::Memory, |setup| {
        with_console(setup).set("TALLY_CONSOLE_ABSOLUTE_AGE", "2")
    });
    let operator = sign_in(&server, "");
    let ended = until(|| {
        let answer = server.get("/admin").cookie(&operator).send();
        is_sign_in(&answer.body).then_some(answer)
    });
    assert!(
        ended.body.contains("made a long time ago"),
        "{}",
        ended.body
    );
}

#[test]
fn signing_out_everywhere_and_another_password_end_every_sign_in() {
    for engine in Engine::ALL {
        // Memory is gone with its server, and no other server sees it.
        let mut server = Server::start_as(engine, with_console);
        let (first, second) = (sign_in(&server, ""), sign_in(&server, ""));
        let mut stream = Stream::open(&server, "/admin/live", &first);
        stream.until("data-part");
        server
            .post("/admin/sign-out-everywhere")
            .cookie(&second)
            .send();
        stream.until("event: ended");
        let answer = server.get("/admin").cookie(&first).send();
        assert!(
            answer.body.contains("somebody signed out everywhere"),
            "{engine:?}"
        );
        if engine == Engine::Memory {
            continue;
        }
        let third = sign_in(&server, "");
        server.restart();
        page(&server, "/admin", &third);
        let other = server.beside_as(|setup| {
            setup.set(
                "TALLY_CONSOLE_PASSWORD_HASH",
                &hash("another password altogether"),
            )
        });
        let answer = other.get("/admin").cookie(&third).send();
        assert!(is_sign_in(&answer.body), "{engine:?}");
        assert!(
            answer.body.contains("the password has changed"),
            "{engine:?}"
        );
    }
}

#[test]
fn a_revoked_session_is_dead_at_the_next_request_and_its_pages_are_told() {
    for engine in [Engine::Redis, Engine::Sqlite, Engine::Memory] {
        let server = Server::start_as(engine, with_console);
        // With Redis the victim is on another server.
        let other = (engine == Engine::Redis).then(|| server.beside());
        let visited = other.as_ref().unwrap_or(&server);
        let operator = sign_in(&server, "");
        let victim = visited.new_session();
        visited.visit(&victim);
        let mut stream = Stream::open(visited, "/live", &victim);
        stream.until("visits=2");
        let label = until(|| others(&page(&server, "/admin/sessions", &operator)).pop());
        let revoke = format!("/admin/sessions/{label}/revoke");
        let answer = server.post(&revoke).cookie(&operator).send();
        assert_eq!(answer.status, 303);
        stream.until("news=ended");
        let list = page(&server, "/admin/sessions", &operator);
        assert!(list.contains(&format!("The session {label} has been revoked.")));
        assert_eq!(visited.stored_visits(&victim), 0, "{engine:?}: it lives");
        assert_eq!(visited.visit(&victim), 1, "{engine:?}: a new one begins");
        // A second click, and one's own session.
        server.post(&revoke).cookie(&operator).send();
        let list = page(&server, "/admin/sessions", &operator);
        assert!(list.contains("That session had ended already."));
        page(&server, "/admin", &operator);
    }
}

#[test]
fn all_sessions_but_the_operators_are_revoked() {
    for engine in [Engine::Redis, Engine::Sqlite, Engine::Memory] {
        let server = Server::start_as(engine, with_console);
        let operator = sign_in(&server, "");
        let victims: Vec<_> = (0..1_200).map(|_| server.new_session()).collect();
        if engine == Engine::Redis {
            // What belongs to others stays: a name of ours, a value that is none of ours.
            server
                .keeper()
                .ask(&["set", "AAAAAAAAAAAAAAAAAAAAAA", "theirs"]);
            server
                .keeper()
                .ask(&["rpush", "BAAAAAAAAAAAAAAAAAAAAA", "theirs"]);
        }
        let answer = server.post("/admin/revoke-others").cookie(&operator).send();
        assert_eq!(answer.status, 303, "{}", answer.body);
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
                server.keeper().ask(&[
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
fn the_list_has_pages_and_is_searched_by_label() {
    for engine in [Engine::Redis, Engine::Sqlite, Engine::Memory] {
        let server = Server::start_as(engine, with_console);
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
        let sizes: Vec<_> = pages.iter().map(|page| labels(page).len()).collect();
        assert_eq!(sizes, [50, 50, 20, 0], "{engine:?}");
        let far = format!("/admin/sessions?page={}", u64::MAX);
        assert!(labels(&page(&server, &far, &operator)).is_empty());
        assert!(
            pages[1].contains("Page 2 of 3, 120 sessions"),
            "{}",
            pages[1]
        );
        assert!(
            pages[1].contains("page=1\" rel=\"prev\"")
                && pages[1].contains("page=3\" rel=\"next\"")
        );
        let all: BTreeSet<_> = pages.iter().flat_map(|page| labels(page)).collect();
        assert_eq!(all.len(), 120, "{engine:?}: each is listed once");
        for label in all.iter().step_by(30) {
            let search = |text: &str| {
                labels(&page(
                    &server,
                    &format!("/admin/sessions?label={text}"),
                    &operator,
                ))
            };
            assert_eq!(search(label), [label.as_str()]);
            let expected = all
                .iter()
                .filter(|other| other.starts_with(&label[..2]))
                .count();
            assert_eq!(search(&label[..2]).len(), expected, "{engine:?}");
        }
        for nothing in ["zzzzzzzzzz", "%00", "*", "%5B", "a+b", "0123456789abcdef"] {
            let list = page(
                &server,
                &format!("/admin/sessions?label={nothing}"),
                &operator,
            );
            assert_eq!(labels(&list).len(), 0, "{nothing}");
        }
        let missing = server
            .get("/admin/sessions/zzzzzzzzzz")
            .cookie(&operator)
            .send();
        assert_eq!(missing.status, 404);
    }
}

#[test]
fn values_are_masked_until_they_are_asked_for() {
    for engine in [Engine::Redis, Engine::Sqlite, Engine::Memory] {
        let server = Server::start_as(engine, with_console);
        let operator = sign_in(&server, "");
        let victim = server.new_session();
        let draft = "<b>secret</b>";
        let answer = server
            .post("/api/draft")
            .cookie(&victim)
            .body("draft=%3Cb%3Esecret%3C%2Fb%3E")
            .send();
        assert_eq!(answer.status, 200);
        let label = until(|| others(&page(&server, "/admin/sessions", &operator)).pop());
        let masked = page(&server, &format!("/admin/sessions/{label}"), &operator);
        assert!(masked.contains("text, 13 characters") && !masked.contains("secret"));
        let reveal = server
            .post(&format!("/admin/sessions/{label}/reveal"))
            .cookie(&operator)
            .send();
        assert!(
            reveal.body.contains("&lt;b&gt;secret&lt;/b&gt;"),
            "{}",
            reveal.body
        );
        assert!(!reveal.body.contains(draft), "the value is no markup");
        let log = server.log();
        let line = log
            .lines()
            .find(|line| line.contains("values revealed"))
            .expect("a line");
        assert!(line.contains(&label) && !log.contains("secret"), "{log}");
    }
}

#[test]
fn the_overview_adds_up_over_servers_and_survives_a_restart() {
    let mut first = Server::start_as(Engine::Redis, with_console);
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
    first.post("/api/forget").cookie(&forgotten).send();
    for (name, expected) in [
        ("visits today", 61),
        ("visitors today", 22),
        ("sessions created today", 22),
        ("sessions ended today", 1),
        ("sessions alive", 21),
    ] {
        until_tile(&second, &operator, name, expected);
    }
    let overview = page(&second, "/admin", &operator);
    assert_eq!(overview.matches("role=\"img\"").count(), 6);
    assert_eq!(overview.matches("<svg").count(), 6);
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
    let ended = first.keeper().ask(&["--raw", "keys", "tally:{console}:*"]);
    for key in ended
        .lines()
        .filter(|key| key.contains("counts") || key.contains("visitors"))
    {
        let seconds: i64 = first.keeper().ask(&["ttl", key]).parse().expect("a number");
        assert!(seconds > 0, "{key} never goes");
    }
}

#[test]
fn a_failed_answer_counts_no_visit_on_the_overview() {
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
fn an_engine_says_what_it_can_not_offer() {
    for engine in Engine::ALL {
        let server = Server::start_as(engine, with_console);
        let operator = sign_in(&server, "");
        server.new_session();
        until_tile(&server, &operator, "visits today", 1);
        let overview = page(&server, "/admin", &operator);
        let list = page(&server, "/admin/sessions", &operator);
        let shared = engine == Engine::Redis;
        let has_list = !matches!(engine, Engine::File | Engine::Memcached);
        assert_eq!(overview.contains("keeps no counts"), !shared, "{engine:?}");
        assert_eq!(
            overview.contains("<dt>visitors today</dt><dd>unknown"),
            !shared,
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
        assert_eq!(labels(&list).is_empty(), !has_list, "{engine:?}");
        if !has_list {
            let answer = server.post("/admin/revoke-others").cookie(&operator).send();
            assert_eq!(answer.status, 404);
        }
    }
}

#[test]
fn sessions_from_before_the_console_are_listed_too() {
    let without = Server::start(Engine::Redis);
    let cookies: Vec<_> = (0..30).map(|_| without.new_session()).collect();
    assert_eq!(
        without.keeper().ask(&["dbsize"]),
        "30",
        "without a console nothing is written for it"
    );
    let server = without.beside_as(with_console);
    let operator = sign_in(&server, "");
    until_tile(&server, &operator, "sessions alive", 31);
    assert_eq!(
        labels(&page(&server, "/admin/sessions", &operator)).len(),
        31
    );
    assert_eq!(server.visit(&cookies[0]), 2);
}

#[test]
fn sessions_that_have_expired_leave_the_list() {
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
    let labels = labels(&page(&server, "/admin/sessions", &operator));
    assert_eq!(labels.len(), 1, "{labels:?}");
}

#[test]
fn a_cluster_has_a_console() {
    let masters = Keeper::cluster(3, 0, &["--cluster-enabled", "yes", "--cluster-port", "0"]);
    let store = format!("redis-cluster://127.0.0.1:{}", masters[0].port);
    let server = Server::on(&store, with_console);
    let operator = sign_in(&server, "");
    let victims: Vec<_> = (0..60).map(|_| server.new_session()).collect();
    until_tile(&server, &operator, "sessions alive", 61);
    until_tile(&server, &operator, "visitors today", 61);
    server.post("/admin/revoke-others").cookie(&operator).send();
    until_tile(&server, &operator, "sessions alive", 1);
    for victim in &victims {
        assert_eq!(server.stored_visits(victim), 0);
    }
    let later = Server::on(&store, with_console);
    until_tile(&later, &operator, "sessions alive", 1);
}

#[test]
fn when_redis_is_away_the_console_says_so_and_comes_back() {
    let server = Server::start_as(Engine::Redis, with_console);
    let operator = sign_in(&server, "");
    server.new_session();
    until_tile(&server, &operator, "sessions alive", 2);
    server.keeper().stop();
    for path in ["/admin", "/admin/sessions"] {
        let answer = server.get(path).cookie(&operator).send();
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(
        try_password(&server, "", "wrong").status,
        403,
        "a stranger needs no store"
    );
    let right = try_password(&server, "", PASSWORD);
    assert_eq!((right.status, right.header("set-cookie")), (503, None));
    let log = server.log();
    let failed = log.lines().find(|line| line.contains("audit: failed"));
    assert!(
        failed.is_some_and(|line| line.contains("signed in")),
        "{log}"
    );
    server.keeper().start_again();
    server.until_up("/admin", &operator);
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    until_tile(&server, &operator, "sessions alive", 3);
}

#[test]
fn each_action_has_a_line_in_the_log_that_tells_no_secret() {
    let server = Server::start_as(Engine::Memory, behind_a_proxy);
    try_from(&server, "203.0.113.9", "", "a wrong password, typed");
    let operator = sign_in(&server, "");
    server.new_session();
    let list = page(&server, "/admin/sessions", &operator);
    let label = others(&list).pop().expect("a session");
    page(
        &server,
        &format!("/admin/sessions?label={label}"),
        &operator,
    );
    page(&server, &format!("/admin/sessions/{label}"), &operator);
    for action in ["reveal", "revoke"] {
        server
            .post(&format!("/admin/sessions/{label}/{action}"))
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
fn another_sites_page_can_not_act_for_the_operator() {
    let server = Server::start_as(Engine::Memory, with_console);
    let operator = sign_in(&server, "");
    server.new_session();
    for path in ["/admin", "/admin/revoke-others", "/admin/sign-out"] {
        let request = server.post(path).cookie(&operator).body(&form(PASSWORD));
        let answer = request.header("sec-fetch-site", "cross-site").send();
        assert_eq!((answer.status, answer.header("set-cookie")), (403, None));
    }
    assert_eq!(
        tile(&page(&server, "/admin", &operator), "sessions alive"),
        2
    );
}

#[test]
fn the_command_makes_the_hash_that_the_settings_take() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |typed: &str| {
        let mut process = binary(folder.path())
            .arg("hash-password")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut input = process.stdin.take().expect("piped");
        input.write_all(typed.as_bytes()).expect("sent");
        drop(input);
        let output = process.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (short, hash, why) = run("too short\n");
    assert!(
        !short && hash.is_empty() && why.contains("15 are the fewest"),
        "{why}"
    );
    let (done, hash, _) = run(&format!("{PASSWORD}\n"));
    assert!(
        done && hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
        "{hash}"
    );
    let server = Server::start_as(Engine::Memory, |setup| {
        setup.set("TALLY_CONSOLE_PASSWORD_HASH", &hash)
    });
    page(&server, "/admin", &sign_in(&server, ""));
}

#[test]
fn a_password_in_the_place_of_its_hash_stops_the_start_and_is_not_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command: Command = binary(folder.path());
    let output = command
        .env("TALLY_CONSOLE_PASSWORD_HASH", PASSWORD)
        .env("SESSION_STORE", "memory:")
        .output()
        .expect("the binary runs");
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        why.contains("console.password_hash") && why.contains("TALLY_CONSOLE_PASSWORD_HASH"),
        "{why}"
    );
    assert!(
        !why.contains(PASSWORD) && why.trim().lines().count() == 1,
        "{why}"
    );
}
