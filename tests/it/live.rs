//! Open pages are notified of each change, whichever server makes it. Clients that abuse this harm nobody else.

use std::{
    io::Read,
    sync::atomic::Ordering::SeqCst,
    thread,
    time::{Duration, Instant},
};

use crate::support::{Databases, Engine, Server, Setup, page::Page, proxy::Proxy, until};
use tally::client_session::SessionEvent;

#[test]
fn open_pages_are_notified_of_every_change_on_every_engine() {
    let databases = Databases::shared();
    for engine in Engine::ALL {
        eprintln!("on {engine:?}");
        let server = Server::start_in(&databases, engine, |setup| setup);
        let cookie = server.new_session();
        let mut page = Page::open(&server, &cookie);
        assert_eq!(page.status(), "200");
        assert!(page.head.contains("content-type: text/event-stream"));
        assert!(page.head.contains("cache-control: private, no-store"));
        assert!(page.head.contains("x-accel-buffering: no"));
        let first = page.until_visits(1);
        assert!(first.expires_at > first.now && first.created_at > 0 && first.bytes > 0);
        server.visit(&cookie);
        let second = page.until_visits(2);
        assert!(second.revision > first.revision);
        server
            .post("/api/theme")
            .cookie(&cookie)
            .body("theme=dark")
            .send();
        page.until(|snapshot| snapshot.visitor.theme.name() == "dark");
        server
            .post("/api/draft")
            .cookie(&cookie)
            .body("draft=a%0Ab")
            .send();
        page.until(|snapshot| snapshot.visitor.draft == "a\nb");
        server.post("/api/reset").cookie(&cookie).send();
        page.until_visits(0);
        let forgotten = server.post("/api/delete").cookie(&cookie).send();
        assert_eq!(forgotten.status, 200);
        assert_eq!(
            forgotten.header("clear-site-data"),
            Some("\"cookies\", \"storage\"")
        );
        page.until_ended();
        assert_eq!(server.stored_visits(&cookie), 0);
    }
}

#[test]
fn a_change_on_one_server_reaches_open_pages_on_another() {
    for engine in [Engine::Redis, Engine::Postgres] {
        changes_reach_the_other_server(engine);
    }
}

fn changes_reach_the_other_server(engine: Engine) {
    let databases = Databases::shared();
    let first = Server::start_in(&databases, engine, |setup| setup);
    let second = first.beside();
    let cookie = first.new_session();
    let mut page = Page::open(&second, &cookie);
    page.until_visits(1);
    let mut slowest = Duration::ZERO;
    for visits in 2..=200 {
        let began = Instant::now();
        first.visit(&cookie);
        page.until_visits(visits);
        slowest = slowest.max(began.elapsed());
    }
    eprintln!("{engine:?}: the slowest of 199 changes reached the page after {slowest:?}");
    first.post("/api/delete").cookie(&cookie).send();
    page.until_ended();
}

#[test]
fn a_stream_survives_an_outage_of_the_store() {
    for engine in [Engine::Redis, Engine::Postgres] {
        a_stream_outlives_its_store(engine);
    }
}

fn a_stream_outlives_its_store(engine: Engine) {
    let server = Server::start(engine);
    let cookie = server.new_session();
    let mut page = Page::open(&server, &cookie);
    page.until_visits(1);
    server.backend().stop();
    server.backend().start_again();
    server.until_up("/about", &cookie);
    let visits = server.visit(&cookie);
    page.until_visits(visits);
}

#[test]
fn without_a_session_there_is_no_stream() {
    let server = Server::start(Engine::Redis);
    for cookie in ["", "sessionid=0123456789abcdef0123456789abcdef"] {
        let mut page = Page::open(&server, cookie);
        assert_eq!(page.next(), Some(SessionEvent::Ended));
        assert_eq!(page.next(), None);
    }
    assert_eq!(server.backend().keys(), 0);
}

#[test]
fn a_stopping_server_ends_its_streams_at_once() {
    let mut server = Server::start(Engine::Memory);
    let cookie = server.new_session();
    let mut pages: Vec<_> = (0..10).map(|_| Page::open(&server, &cookie)).collect();
    for page in &mut pages {
        page.until_visits(1);
    }
    let reading = thread::spawn(move || {
        for page in &mut pages {
            while page.next().is_some() {}
        }
    });
    assert!(server.stop("TERM").success());
    reading.join().expect("every stream ended");
    assert!(!server.log().contains("still open"), "{}", server.log());
}

#[test]
fn streams_are_limited_by_session_and_by_server() {
    let few = |setup: Setup| setup.set("TALLY_LIVE_PAGES", "20");
    let server = Server::start_as(Engine::Memory, few);
    let cookie = server.new_session();
    let mut pages: Vec<_> = (0..16).map(|_| Page::open(&server, &cookie)).collect();
    for page in &mut pages {
        page.until_visits(1);
    }
    // One more stream replaces the oldest.
    let mut one_more = Page::open(&server, &cookie);
    one_more.until_visits(1);
    pages[0].until_last(&SessionEvent::Replaced);
    pages.remove(0);
    let other = server.new_session();
    let others: Vec<_> = until(|| {
        let pages: Vec<_> = (0..5).map(|_| Page::open(&server, &other)).collect();
        let refused = pages.iter().filter(|page| page.status() == "503").count();
        (refused == 1).then_some(pages)
    });
    let refused = others.iter().find(|page| page.status() == "503");
    assert!(refused.is_some_and(|page| page.head.contains("retry-after: 30")));
    assert_eq!(server.visit(&other), 2);
    // Closed streams make room for others.
    drop(pages);
    drop(one_more);
    until(|| (Page::open(&server, &other).status() == "200").then_some(()));
}

#[test]
#[cfg_attr(not(feature = "soak"), ignore = "measures memory: make soak")]
fn clients_that_read_nothing_use_little_memory() {
    let server = Server::start(Engine::Memory);
    let cookie = server.new_session();
    let draft = format!("draft={}", "x".repeat(500));
    server
        .post("/api/draft")
        .cookie(&cookie)
        .body(&draft)
        .send();
    let silent: Vec<_> = (0..16).map(|_| server.stream("/live", &cookie)).collect();
    let mut page = Page::open(&server, &server.new_session());
    page.until_visits(1);
    let before = server.resident_bytes();
    let visits = 5_000;
    for visit in 2..=visits {
        assert_eq!(server.visit(&cookie), visit);
    }
    let grown = server.resident_bytes().saturating_sub(before) / 1_024;
    eprintln!("16 pages that read nothing of {visits} changes: {grown} KiB more in the server");
    assert!(grown < 32 * 1_024, "{grown} KiB");
    drop(silent);
}

#[test]
fn a_thousand_reconnections_slow_no_other_visitor() {
    let server = Server::start(Engine::Redis);
    let (restless, calm) = (server.new_session(), server.new_session());
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let mut stream = server.stream("/live", &restless);
                    let mut status = [0; 12];
                    stream.read_exact(&mut status).expect("a response");
                    assert_eq!(&status, b"HTTP/1.1 200");
                }
            });
        }
        for visits in 2..=300 {
            assert_eq!(server.visit(&calm), visits);
        }
    });
    eprintln!(
        "2,000 reconnections and 299 visits took {:?}",
        began.elapsed()
    );
    // All their subscriptions end.
    until(|| {
        let channels = server.backend().ask(&["pubsub", "channels", "tally:*"]);
        channels.is_empty().then_some(())
    });
}

#[test]
#[cfg_attr(not(feature = "soak"), ignore = "measures memory: make soak")]
fn an_idle_stream_costs_less_than_20_kib() {
    let streams = 10_000;
    let server = Server::start(Engine::Redis);
    let before = server.resident_bytes();
    let mut pages = Vec::new();
    for turn in 0..streams / 10 {
        let cookie = server.new_session();
        for _ in 0..10 {
            pages.push(Page::open(&server, &cookie));
        }
        for page in &mut pages[turn * 10..] {
            page.until_visits(1);
        }
    }
    let each = server.resident_bytes().saturating_sub(before) / streams as u64;
    eprintln!(
        "{streams} idle streams of {} sessions: {each} bytes each",
        streams / 10
    );
    assert!(each < 20 * 1_024, "{each} bytes");
}

#[test]
fn a_change_before_the_subscription_reaches_the_page() {
    let direct = Server::start(Engine::Redis);
    let proxy = Proxy::start(direct.backend().port, u64::MAX);
    let store = format!("redis://127.0.0.1:{}", proxy.port);
    let held_up = Server::on(&store, |setup| setup);
    let cookie = direct.new_session();
    proxy.holding.store(true, SeqCst);
    let lines = held_up.stream("/live", &cookie);
    until(|| (proxy.held.load(SeqCst) > 0).then_some(()));
    assert_eq!(direct.visit(&cookie), 2);
    proxy.holding.store(false, SeqCst);
    let mut page = Page::of(lines);
    page.until_visits(2);
    assert_eq!(direct.visit(&cookie), 3);
    page.until_visits(3);
}
