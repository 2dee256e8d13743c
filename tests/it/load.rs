//! No visit is lost or counted twice, however many clients visit at once and whatever breaks.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::support::{Backend, Databases, Engine, Server, proxy::Proxy};

/// Makes `visits` visits from `connections` clients, which take turns on the servers. Returns the visits' numbers in no
/// order, and how many visits failed.
fn hammer(servers: &[&Server], cookie: &str, connections: usize, visits: u64) -> (Vec<u64>, u64) {
    let left = AtomicU64::new(visits);
    let failed = AtomicU64::new(0);
    let numbers = Mutex::new(Vec::new());
    let take = || {
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    };
    thread::scope(|scope| {
        for connection in 0..connections {
            let server = servers[connection % servers.len()];
            let (failed, numbers) = (&failed, &numbers);
            scope.spawn(move || {
                let mut own: Vec<u64> = Vec::new();
                while take() {
                    let response = server.post("/api/visit").cookie(cookie).send();
                    match response.count() {
                        Some(number) if response.status == 200 => own.push(number),
                        _ => _ = failed.fetch_add(1, Ordering::SeqCst),
                    }
                }
                numbers.lock().expect("not poisoned").extend(own);
            });
        }
    });
    let numbers = numbers.into_inner().expect("not poisoned");
    (numbers, failed.into_inner())
}

/// Asserts that each of `visits` visits to a new session has its own number, without gaps.
fn assert_exact(servers: &[&Server], visits: u64) {
    let cookie = servers[0].new_session();
    let (mut numbers, failed) = hammer(servers, &cookie, 64, visits);
    numbers.sort_unstable();
    assert_eq!(failed, 0);
    assert_eq!(numbers, (2..=visits + 1).collect::<Vec<_>>());
    assert_eq!(servers[0].stored_visits(&cookie), visits + 1);
}

#[test]
fn two_servers_on_one_redis_count_20_000_visits_of_one_session() {
    let first = Server::start(Engine::Redis);
    let second = first.beside();
    assert_exact(&[&first, &second], 20_000);
}

#[test]
fn two_servers_on_one_postgres_count_5_000_visits_of_one_session() {
    let databases = Databases::shared();
    let first = Server::start_in(&databases, Engine::Postgres, |setup| setup);
    let second = first.beside();
    assert_exact(&[&first, &second], 5_000);
}

/// PostgreSQL refuses one of two transactions that conflict at this isolation level. The server tries it again.
#[test]
fn serializable_transactions_that_meet_lose_nothing() {
    let postgres = Backend::postgres(&["default_transaction_isolation=serializable"]);
    let (first, second) = (
        Server::on(&postgres.url(), |setup| setup),
        Server::on(&postgres.url(), |setup| setup),
    );
    assert_exact(&[&first, &second], 2_000);
}

/// Requests wait for the connection, and none is refused.
#[test]
fn one_connection_to_postgres_serves_64_clients() {
    let databases = Databases::shared();
    let server = Server::start_in(&databases, Engine::Postgres, |setup| {
        setup.set("SESSION_STORE_CONNECTIONS", "1")
    });
    assert_exact(&[&server], 2_000);
}

#[test]
fn two_servers_on_one_mariadb_count_5_000_visits_of_one_session() {
    let databases = Databases::shared();
    let first = Server::start_in(&databases, Engine::MariaDb, |setup| setup);
    let second = first.beside();
    assert_exact(&[&first, &second], 5_000);
}

#[test]
fn two_servers_on_one_memcached_count_5_000_visits_of_one_session() {
    let first = Server::start(Engine::Memcached);
    let second = first.beside();
    assert_exact(&[&first, &second], 5_000);
}

#[test]
fn two_servers_on_one_folder_count_2_000_visits_of_one_session() {
    let first = Server::start(Engine::File);
    let second = first.beside();
    assert_exact(&[&first, &second], 2_000);
}

#[test]
fn one_server_on_sqlite_counts_20_000_visits_of_one_session() {
    let server = Server::start(Engine::Sqlite);
    assert_exact(&[&server], 20_000);
}

#[test]
fn a_thousand_sessions_at_once_stay_apart() {
    let databases = Databases::shared();
    for engine in [
        Engine::Redis,
        Engine::Postgres,
        Engine::MariaDb,
        Engine::Sqlite,
    ] {
        let server = Server::start_in(&databases, engine, |setup| setup);
        let cookies: Vec<_> = (0..1_000).map(|_| server.new_session()).collect();
        let visited = |connection: usize, visit: usize| (connection * 61 + visit * 7) % 1_000;
        thread::scope(|scope| {
            for connection in 0..16 {
                let (server, cookies) = (&server, &cookies);
                scope.spawn(move || {
                    for visit in 0..500 {
                        server.visit(&cookies[visited(connection, visit)]);
                    }
                });
            }
        });
        let mut expected = vec![1_u64; cookies.len()];
        for connection in 0..16 {
            for visit in 0..500 {
                expected[visited(connection, visit)] += 1;
            }
        }
        let stored: Vec<u64> = cookies
            .iter()
            .map(|cookie| server.stored_visits(cookie))
            .collect();
        assert_eq!(stored, expected, "{engine:?}");
    }
}

#[test]
fn cut_connections_lose_nothing_and_double_nothing() {
    for engine in [Engine::Redis, Engine::Postgres, Engine::MariaDb] {
        connections_are_cut(engine);
    }
}

fn connections_are_cut(engine: Engine) {
    let direct = Server::start(engine);
    let proxy = Proxy::start(direct.backend().port, 40);
    let store = direct.backend().url_at(proxy.port);
    let first = Server::on(&store, |setup| setup);
    let second = Server::on(&store, |setup| setup);
    let cookie = direct.new_session();
    proxy.cutting.store(true, Ordering::SeqCst);
    let cuts = || proxy.cuts.load(Ordering::SeqCst);
    let (mut numbers, mut failed) = (Vec::new(), 0);
    // A cut may hit one batch of visits or many, so the number of cuts varies.
    for _ in 0..10 {
        if cuts() > 20 {
            break;
        }
        let (more, refused) = hammer(&[&first, &second], &cookie, 16, 3_000);
        numbers.extend(more);
        failed += refused;
    }
    proxy.cutting.store(false, Ordering::SeqCst);
    let cuts = cuts();
    eprintln!("{engine:?}: {cuts} connections cut, {failed} visits failed with 503");
    assert!(cuts > 20, "only {cuts} connections were cut");
    let different: BTreeSet<_> = numbers.iter().collect();
    assert_eq!(
        different.len(),
        numbers.len(),
        "two visits got the same number"
    );
    let counted = direct.stored_visits(&cookie) - 1;
    assert_eq!(
        counted,
        numbers.len() as u64,
        "the acknowledged visits and the count differ"
    );
}

#[test]
fn robots_leave_no_sessions_by_reading_and_short_ones_by_visiting() {
    let server = Server::start(Engine::Redis);
    let requests = 4_800;
    let robots = |path: &'static str, requests: u64, cookies: bool| {
        thread::scope(|scope| {
            for robot in 0..16_u64 {
                let server = &server;
                scope.spawn(move || {
                    for visit in 0..requests / 16 {
                        let cookie = format!("sessionid={:032x}", (robot << 32) | visit);
                        let request = server.get(path);
                        let request = if cookies {
                            request.cookie(&cookie)
                        } else {
                            request
                        };
                        assert_eq!(request.send().status, 200);
                    }
                });
            }
        });
    };
    robots("/about", requests / 10, true);
    assert_eq!(server.backend().keys(), 0);
    robots("/", requests, false);
    assert_eq!(server.backend().keys(), requests);
    for _ in 0..100 {
        let key = server.backend().ask(&["randomkey"]);
        let lives: i64 = server
            .backend()
            .ask(&["ttl", &key])
            .parse()
            .expect("a number");
        assert!((1..=600).contains(&lives), "{lives}");
    }
    let key = server.backend().ask(&["randomkey"]);
    let bytes = server.backend().ask(&["memory", "usage", &key]);
    eprintln!("Redis: {bytes} bytes a session");
}

#[test]
#[cfg_attr(not(feature = "soak"), ignore = "measures memory: make soak")]
fn a_session_takes_few_bytes_in_the_store() {
    let sessions = 2_000;
    let fill = |server: &Server| (0..sessions).for_each(|_| _ = server.new_session());
    for engine in [Engine::File, Engine::Sqlite] {
        let mut server = Server::start(engine);
        fill(&server);
        server.stop("TERM");
        let files = server.files();
        let bytes: u64 = files
            .iter()
            .map(|file| file.metadata().expect("a file").len())
            .sum();
        print_report(engine, bytes / sessions);
    }
    let server = Server::start(Engine::Memcached);
    fill(&server);
    let mut stream = TcpStream::connect(("127.0.0.1", server.backend().port)).expect("connected");
    stream.write_all(b"stats\r\nquit\r\n").expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    let bytes = response
        .lines()
        .find_map(|line| line.strip_prefix("STAT bytes "));
    let bytes: u64 = bytes.expect("a number").parse().expect("a number");
    print_report(Engine::Memcached, bytes / sessions);
    let server = Server::start(Engine::Memory);
    fill(&server);
    let before = server.resident_bytes();
    (0..10).for_each(|_| fill(&server));
    let grown = server.resident_bytes().saturating_sub(before);
    print_report(Engine::Memory, grown / (10 * sessions));
}

/// Prints a session's size. The bound only catches a record that grows out of hand.
fn print_report(engine: Engine, bytes: u64) {
    eprintln!("{engine:?}: {bytes} bytes a session");
    assert!(bytes < 4_000);
}
