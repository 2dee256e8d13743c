//! Faults as in production, with real processes under load.
//!
//! No acknowledged visit is lost. A request that can't be served gets a 503 in time, with a `Retry-After`.
//!
//! `make soak` repeats each fault five times. The tests print their measurements either way.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::support::{
    self, Backend, Engine, Server, Setup,
    balancer::Balancer,
    binary,
    console::Stream,
    load_generator::{LoadGenerator, LoadReport},
    output_of,
    postgres::{program, run_to_end, unprivileged},
    proxy::Proxy,
    until,
};
use serde_json::Value;
use tally_session::store::{self, EncodedRecord, Store, StoreOptions, StoreUrl, Swap};
use tower_sessions::session::Id;

/// How often a test repeats its fault: once in `make test`, and more often in `make soak`.
fn rounds() -> u64 {
    std::env::var("TALLY_SOAK")
        .ok()
        .and_then(|times| times.parse().ok())
        .unwrap_or(1)
}

/// Redis appends each write to a file before it responds. It doesn't sync the file every second, because it may respond
/// before it appends while a sync runs, and a kill would then lose the write.
const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "no"];

fn durable_redis() -> Backend {
    Backend::redis(DURABLE)
}

/// The stores that servers can share and that survive a kill.
fn durable_backends() -> [Backend; 3] {
    [
        durable_redis(),
        Backend::postgres(&[]),
        Backend::mariadb(&[]),
    ]
}

fn on(backend: &Backend) -> Server {
    Server::on(&backend.url(), |setup| setup)
}

fn print_report(what: &str, seen: &LoadReport) {
    eprintln!(
        "{what}: {} visits acknowledged, none lost; failures {:?}; the slowest response took {:.1?}",
        seen.numbers.len(),
        seen.failed,
        seen.slowest
    );
}

/// Waits until the site responds again, and returns how long that took.
fn recovery(server: &Server, cookie: &str) -> Duration {
    let back = Instant::now();
    server.until_up("/about", cookie);
    back.elapsed()
}

/// Asserts that every failure was a 503 with a `Retry-After`.
fn assert_only_unavailable(seen: &LoadReport) {
    assert_eq!(seen.without_retry, 0);
    let others: Vec<_> = seen
        .failed
        .keys()
        .filter(|status| **status != 503)
        .collect();
    assert!(others.is_empty(), "{:?}", seen.failed);
}

#[test]
fn killing_one_of_two_servers_loses_nothing() {
    durable_backends().iter().for_each(a_server_is_killed);
}

fn a_server_is_killed(backend: &Backend) {
    let (first, mut second) = (on(backend), on(backend));
    let balancer = Balancer::start(vec![first.address(), second.address()]);
    let cookie = first.new_session();
    let load = LoadGenerator::start(std::slice::from_ref(&balancer.url), &cookie, 8);
    for _ in 0..rounds() {
        load.until_acknowledged(300);
        second.stop("KILL");
        load.until_acknowledged(300);
        second = on(backend);
        balancer.send_to(vec![first.address(), second.address()]);
    }
    load.until_acknowledged(300);
    let seen = load.finish();
    seen.assert_nothing_lost(first.stored_visits(&cookie));
    print_report("one of two servers killed", &seen);
    // Each kill fails at most the eight requests that were in flight.
    assert!(seen.failures() <= 8 * rounds(), "{:?}", seen.failed);
}

#[test]
fn a_rolling_restart_loses_and_refuses_nothing() {
    let redis = durable_redis();
    let with_drain_delay = || {
        let store = format!("redis://127.0.0.1:{}", redis.port);
        Server::on(&store, |setup| setup.set("TALLY_DRAIN_DELAY", "1"))
    };
    let (mut first, mut second) = (with_drain_delay(), with_drain_delay());
    let balancer = Balancer::start(vec![first.address(), second.address()]);
    let cookie = first.new_session();
    let load = LoadGenerator::start(std::slice::from_ref(&balancer.url), &cookie, 8);
    for _ in 0..rounds() {
        for turn in 0..2 {
            load.until_acknowledged(200);
            let server = if turn == 0 { &mut first } else { &mut second };
            assert_eq!(server.stop("TERM").code(), Some(0));
            *server = with_drain_delay();
            balancer.send_to(vec![first.address(), second.address()]);
        }
    }
    load.until_acknowledged(200);
    let seen = load.finish();
    seen.assert_nothing_lost(first.stored_visits(&cookie));
    print_report("rolling restart", &seen);
    assert_eq!(seen.failures(), 0, "{:?}", seen.failed);
}

#[test]
fn restarting_and_killing_the_store_loses_nothing() {
    durable_backends().iter().for_each(restarts_and_kills);
}

fn restarts_and_kills(backend: &Backend) {
    let (first, second) = (on(backend), on(backend));
    let cookie = first.new_session();
    let load = LoadGenerator::start(&[first.url(""), second.url("")], &cookie, 8);
    for _ in 0..rounds() {
        for stop in [Backend::stop, Backend::kill] {
            load.until_acknowledged(300);
            stop(backend);
            load.until_refused(1);
            let page = first.get("/").cookie(&cookie).send();
            assert_eq!(page.status, 503);
            assert!(page.body.contains("can't be reached right now"));
            assert!(page.header("retry-after").is_some());
            backend.start_again();
            eprintln!(
                "the store is back, and the site after {:.0?}",
                recovery(&first, &cookie)
            );
        }
    }
    load.until_acknowledged(300);
    let seen = load.finish();
    seen.assert_nothing_lost(first.stored_visits(&cookie));
    print_report("a store restarted and killed", &seen);
    assert_only_unavailable(&seen);
}

#[test]
fn a_redis_that_pauses_for_five_seconds_loses_nothing() {
    let redis = durable_redis();
    let (first, second) = (on(&redis), on(&redis));
    let cookie = first.new_session();
    let load = LoadGenerator::start(&[first.url(""), second.url("")], &cookie, 8);
    for _ in 0..rounds() {
        load.until_acknowledged(300);
        redis.signal("STOP");
        let stopped = Instant::now();
        load.until_refused(1);
        let page = first.get("/").cookie(&cookie).send();
        assert_eq!(page.status, 503);
        until(|| (stopped.elapsed() > Duration::from_secs(5)).then_some(()));
        redis.signal("CONT");
        eprintln!(
            "Redis continues, and the site after {:.0?}",
            recovery(&first, &cookie)
        );
    }
    load.until_acknowledged(300);
    let seen = load.finish();
    seen.assert_nothing_lost(first.stored_visits(&cookie));
    print_report("Redis paused for 5 s", &seen);
    assert_only_unavailable(&seen);
}

/// Starts a server whose connections to its store all go through a proxy.
fn behind(proxy: &Proxy, backend: &Backend) -> Server {
    Server::on(&backend.url_at(proxy.port), |setup| setup)
}

/// The longest time that the site may fail after the first time-out.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// Visits until a visit is counted. Returns the count, and the time since the first failure.
fn until_counted(server: &Server, cookie: &str) -> (u64, Duration) {
    let mut failed = None;
    let visits = until(|| {
        let response = server.post("/api/visit").cookie(cookie).send();
        if response.status == 200 {
            return response.count();
        }
        assert_eq!(response.status, 503);
        failed.get_or_insert_with(Instant::now);
        None
    });
    (visits, failed.map_or(Duration::ZERO, |at| at.elapsed()))
}

#[test]
fn a_silent_connection_is_replaced() {
    durable_backends().iter().for_each(connections_fall_silent);
}

fn connections_fall_silent(backend: &Backend) {
    let proxy = Proxy::start(backend.port, u64::MAX);
    let server = behind(&proxy, backend);
    let cookie = server.new_session();
    let mut events = Stream::open(&server, "/live", &cookie);
    events.until("\"visits\":1,");
    for turn in 0..3 * rounds() {
        let before = server.stored_visits(&cookie);
        // Some turns have one visitor, others many, because load hides how long a connection has been silent.
        let load = (turn % 2 == 1).then(|| LoadGenerator::start(&[server.url("")], &cookie, 8));
        if let Some(load) = &load {
            load.until_acknowledged(100);
        }
        proxy.fall_silent();
        let (visits, took) = until_counted(&server, &cookie);
        assert!(took < BACK_WITHIN, "{took:?}");
        match load {
            None => assert_eq!(visits, before + 1, "the visit was lost or counted twice"),
            Some(load) => {
                load.until_acknowledged(100);
                let seen = load.finish();
                // The load did not make the visit above.
                seen.assert_nothing_lost_since(before + 1, server.stored_visits(&cookie));
                assert_only_unavailable(&seen);
                print_report("silent connections", &seen);
            }
        }
    }
    // The connection for the change feed is replaced, too.
    let visits = server.visit(&cookie);
    let shown = format!("\"visits\":{visits},");
    events.until(&shown);
}

#[test]
fn a_readiness_probe_finds_a_silent_connection() {
    for backend in &durable_backends() {
        let proxy = Proxy::start(backend.port, u64::MAX);
        let server = behind(&proxy, backend);
        assert_eq!(server.get("/health/ready").send().status, 200);
        proxy.fall_silent();
        until(|| (server.get("/health/ready").send().status == 503).then_some(()));
        until(|| (server.get("/health/ready").send().status == 200).then_some(()));
    }
}

/// Starts a synchronous standby of a PostgreSQL. It has everything that the primary has confirmed.
fn standby_of(primary: &Backend) -> Backend {
    let from = primary.port.to_string();
    let standby = Backend::postgres_in(&[], move |data| {
        let mut copy = unprivileged(&program("pg_basebackup"));
        copy.args([
            "-h",
            "127.0.0.1",
            "-p",
            &from,
            "-U",
            "tally",
            "-R",
            "-c",
            "fast",
        ]);
        run_to_end(copy.args(["--no-sync", "-X", "stream", "-D"]).arg(data));
    });
    primary.sql("alter system set synchronous_standby_names = '*'");
    primary.sql("alter system set synchronous_commit = 'remote_apply'");
    primary.sql("select pg_reload_conf()");
    until(|| {
        let state = primary.sql("select sync_state from pg_stat_replication");
        (state == "sync").then_some(())
    });
    standby
}

#[test]
fn promoting_a_postgres_standby_loses_nothing() {
    let primary = Backend::postgres(&[]);
    let standby = standby_of(&primary);
    let proxy = Proxy::start(primary.port, u64::MAX);
    let (first, second) = (behind(&proxy, &primary), behind(&proxy, &primary));
    let cookie = first.new_session();
    let load = LoadGenerator::start(&[first.url(""), second.url("")], &cookie, 8);
    load.until_acknowledged(300);
    // The address moves before the standby is promoted. Reads work, and writes are refused with the reason.
    proxy.switch_to(standby.port);
    primary.kill();
    load.until_refused(1);
    until(|| {
        let ready = first.get("/health/ready").send();
        (ready.status == 503 && ready.body == "readonly\n").then_some(())
    });
    let page = first.get("/about").header("sec-purpose", "prefetch");
    assert_eq!(page.cookie(&cookie).send().status, 200);
    let checked = first.problems(&[]);
    assert!(checked.contains("read-only standby"), "{checked}");
    standby.sql("select pg_promote()");
    let back = recovery(&first, &cookie);
    load.until_acknowledged(300);
    let seen = load.finish();
    seen.assert_nothing_lost(first.stored_visits(&cookie));
    assert_only_unavailable(&seen);
    print_report("a standby takes over", &seen);
    eprintln!("the standby is promoted, and the site is back after {back:.0?}");
}

#[test]
fn a_redis_master_that_became_a_replica_is_replaced() {
    let (first, second) = (durable_redis(), durable_redis());
    let proxy = Proxy::start(first.port, u64::MAX);
    let server = behind(&proxy, &first);
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    let ports = [first.port.to_string(), second.port.to_string()];
    second.ask(&["replicaof", "127.0.0.1", &ports[0]]);
    // While the replica receives its data, it answers with an error.
    let received = || {
        second
            .ask(&["dbsize"])
            .parse()
            .is_ok_and(|keys: u64| keys > 0)
    };
    until(|| received().then_some(()));
    // The address has not moved yet. Reads work, and writes are refused with the reason.
    second.ask(&["replicaof", "no", "one"]);
    first.ask(&["replicaof", "127.0.0.1", &ports[1]]);
    let refused = server.post("/api/visit").cookie(&cookie).send();
    assert_eq!(refused.status, 503);
    let about = server.get("/about").header("sec-purpose", "prefetch");
    assert_eq!(about.cookie(&cookie).send().status, 200);
    until(|| {
        let ready = server.get("/health/ready").send();
        (ready.status == 503 && ready.body == "readonly\n").then_some(())
    });
    for _ in 0..10 {
        let refused = server.post("/api/visit").cookie(&cookie).send();
        assert_eq!(refused.status, 503);
    }
    proxy.switch_to(second.port);
    let (visits, took) = until_counted(&server, &cookie);
    assert!(took < BACK_WITHIN, "{took:?}");
    assert_eq!(visits, 3);
    until(|| (server.get("/health/ready").send().status == 200).then_some(()));
    // The log reports the end of the outage at the first write after a second without failures.
    let log = until(|| {
        server.visit(&cookie);
        Some(server.log()).filter(|log| log.contains("works again"))
    });
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(log.contains("readonly"), "{log}");
}

#[test]
fn killing_a_master_of_a_cluster_loses_nothing() {
    let nodes = Backend::cluster(
        6,
        1,
        &[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            "0",
            "--cluster-node-timeout",
            "1000",
            "--repl-diskless-sync-delay",
            "0",
            "--appendonly",
            "yes",
        ],
    );
    for node in &nodes {
        until(|| {
            let replication = node.ask(&["info", "replication"]);
            let linked = ["master_link_status:up", "connected_slaves:1"];
            let is_linked = linked.iter().any(|state| replication.contains(state));
            is_linked.then_some(())
        });
    }
    let store = format!("redis-cluster://127.0.0.1:{}", nodes[0].port);
    let replicated = |setup: Setup| setup.set("SESSION_STORE_REPLICAS", "1");
    let (first, second) = (
        Server::on(&store, replicated),
        Server::on(&store, replicated),
    );
    // `check --deploy` asks for the setting that this needs.
    let unprepared = Server::on(&store, |setup| setup);
    let checked = unprepared.problems(&[]);
    assert!(checked.contains("sessions.store_replicas"), "{checked}");
    let cookie = first.until_new_session();
    // A node that has been killed doesn't answer.
    let holds = |node: &&Backend| {
        let replication = node.try_ask(&["info", "replication"]);
        replication.is_some_and(|it| it.contains("role:master"))
            && node.try_ask(&["dbsize"]).as_deref() == Some("1")
    };
    let master = nodes.iter().find(holds).expect("a master with the session");
    let load = LoadGenerator::start(&[first.url(""), second.url("")], &cookie, 8);
    load.until_acknowledged(500);
    master.kill();
    let killed = Instant::now();
    load.until_refused(1);
    until(|| nodes.iter().any(|node| holds(&node)).then_some(()));
    eprintln!("a replica has taken over after {:.1?}", killed.elapsed());
    // The new master has no replica, so it acknowledges nothing until the old master has become its replica.
    master.start_again();
    load.until_acknowledged(500);
    let seen = load.finish();
    seen.assert_nothing_lost(first.stored_visits(&cookie));
    print_report("a Cluster's master killed", &seen);
    assert_only_unavailable(&seen);
}

/// A server whose store is on a file system of 1 MiB that only it sees. The test reaches it through /proc.
struct SmallDisk {
    server: Server,
}

type Act = fn(&SmallDisk);

impl SmallDisk {
    const FOLDER: &str = "disk";

    fn start(engine: &str) -> Self {
        let store = format!("{engine}{}/sessions", Self::FOLDER);
        let server = Server::on(&store, |setup| {
            setup
                .on_disk(Self::FOLDER, "size=1m")
                .set("TALLY_LOG", "error")
        });
        Self { server }
    }

    fn folder(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.server.id());
        Path::new(&root)
            .join(self.server.folder().strip_prefix("/").expect("absolute"))
            .join(Self::FOLDER)
    }

    /// Fills the file system to the last byte.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.folder().join("fill")).expect("a file");
        let mut size = 65_536;
        while size > 0 {
            if file.write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.folder().join("fill")).expect("removed");
    }

    fn remount(&self, how: &str) {
        let folder = self.server.folder().join(Self::FOLDER);
        let status = Command::new("nsenter")
            .args([
                "--preserve-credentials",
                "-U",
                "-m",
                "-t",
                &self.server.id().to_string(),
            ])
            .args(["mount", "-o", &format!("remount,{how}")])
            .arg(folder)
            .status();
        assert!(status.expect("nsenter").success());
    }
}

#[test]
fn a_full_or_read_only_disk_loses_nothing() {
    for engine in ["sqlite://", "file://"] {
        let disk = SmallDisk::start(engine);
        let server = &disk.server;
        let cookie = server.new_session();
        assert_eq!(server.visit(&cookie), 2);
        let mut visits = 2;
        let mut faults: Vec<(_, Act, Act)> = vec![("full", SmallDisk::fill, SmallDisk::make_room)];
        // A file system can't become read-only while SQLite has its files open. The next test covers SQLite.
        if engine == "file://" {
            faults.push((
                "read-only",
                |disk| disk.remount("ro"),
                |disk| disk.remount("rw"),
            ));
        }
        for (what, spoil, mend) in faults {
            spoil(&disk);
            // SQLite accepts writes as long as its log has room.
            let refused = (0..100_000).find_map(|_| {
                let response = server.post("/api/visit").cookie(&cookie).send();
                if response.status == 200 {
                    visits += 1;
                    assert_eq!(response.count(), Some(visits), "{engine} {what}");
                    return None;
                }
                Some(response)
            });
            let refused = refused.expect("a refusal");
            assert_eq!(refused.status, 503, "{engine} {what}");
            assert!(refused.header("retry-after").is_some(), "{engine} {what}");
            let page = server.get("/").cookie(&cookie).send();
            assert_eq!(page.status, 503, "{engine} {what}");
            assert_eq!(server.stored_visits(&cookie), visits, "{engine} {what}");
            let ready = server.get("/health/ready").send();
            let word = if what == "full" {
                "disk\n"
            } else {
                "readonly\n"
            };
            assert_eq!((ready.status, ready.body.as_str()), (503, word), "{engine}");
            mend(&disk);
            // None of the refused visits has been counted.
            let counted = until(|| {
                let response = server.post("/api/visit").cookie(&cookie).send();
                (response.status == 200).then(|| response.count())
            });
            visits += 1;
            assert_eq!(counted, Some(visits), "{engine} {what}");
            assert_eq!(server.stored_visits(&cookie), visits);
            eprintln!("{engine} {what}: 503, {visits} visits, none lost");
        }
    }
}

#[test]
fn a_store_without_write_access_ends_the_start_with_one_line() {
    for store in ["sqlite://disk/sessions.sqlite3", "file://disk/sessions"] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command =
            support::on_disk(binary(folder.path()), folder.path(), "disk", "size=1m,ro");
        command
            .env("LEPTOS_SITE_ADDR", "127.0.0.1:0")
            .env("TALLY_METRICS", "off")
            .env("SESSION_STORE", store);
        let output = output_of(&mut command);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("can't be reached"), "{said}");
    }
}

#[test]
fn clock_steps_end_no_session() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = folder.path().join("clock");
    let set = |offset: &str| std::fs::write(&clock, offset).expect("written");
    set("+0");
    let library = support::faketime().expect("libfaketime, which scripts/setup installs");
    for engine in Engine::ALL {
        let server = Server::start_as(engine, |setup| {
            setup
                .set("LD_PRELOAD", &library.display().to_string())
                .set("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string())
                .set("FAKETIME_NO_CACHE", "1")
                .set("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        });
        let cookie = server.new_session();
        assert_eq!(server.visit(&cookie), 2);
        let mut visits = 2;
        let mut revision = 0;
        for (offset, expected) in [
            ("-1h", -3_600),
            ("+1h", 3_600),
            ("-3d", -259_200),
            ("+1d", 86_400),
            ("+0", 0_i64),
        ] {
            set(offset);
            for _ in 0..5 {
                visits += 1;
                let response = server.post("/api/visit").cookie(&cookie).send();
                let session = response.session().expect("a session");
                let ahead = session.now - seconds_since_1970();
                assert!(
                    ahead.abs_diff(expected) <= 60,
                    "{engine:?} {offset}: {ahead}"
                );
                assert_eq!(session.visitor.visits, visits, "{engine:?} {offset}");
                assert!(session.revision > revision, "{engine:?} {offset}");
                revision = session.revision;
            }
            assert_eq!(server.stored_visits(&cookie), visits, "{engine:?} {offset}");
        }
    }
}

fn seconds_since_1970() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(now.expect("after 1970").as_secs()).expect("small")
}

/// Writes fields one by one into a session's state, as a server of another release would.
async fn write_fields(url: &str, key: &str, fields: &[(String, String)]) -> Arc<dyn Store> {
    let url = StoreUrl::parse(url).expect("a store");
    let store = store::open(&StoreOptions::new(url)).await.expect("a store");
    let id = session_id(key);
    for (name, value) in fields {
        loop {
            let old = store.load(&id).await.expect("asked").expect("a record");
            let mut new = old.clone();
            let session = new.data.get_mut("tally").expect("a session");
            session["state"][name.as_str()] = value.as_str().into();
            let saved = store
                .compare_and_swap(&EncodedRecord::from(old), &EncodedRecord::from(new))
                .await;
            if matches!(saved.expect("asked"), Swap::Saved) {
                break;
            }
        }
    }
    store
}

async fn state_of(store: &Arc<dyn Store>, key: &str) -> HashMap<String, Value> {
    let record = store.load(&session_id(key)).await.expect("asked");
    record.expect("a record").data
}

fn session_id(key: &str) -> Id {
    let id = key.strip_prefix("tally:").expect("the prefix");
    id.parse().expect("an id")
}

#[test]
fn servers_of_different_releases_share_sessions_under_load() {
    let server = Server::start(Engine::Redis);
    let other = server.beside();
    let cookie = server.new_session();
    let key = server.backend().ask(&["randomkey"]);
    let load = LoadGenerator::start(&[server.url(""), other.url("")], &cookie, 8);
    let fields: Vec<_> = (0..50 * rounds())
        .map(|number| (format!("field-{number}"), number.to_string()))
        .collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let state = runtime.block_on(write_fields(server.store(), &key, &fields));
    load.until_acknowledged(200);
    let seen = load.finish();
    seen.assert_nothing_lost(server.stored_visits(&cookie));
    assert_eq!(seen.failures(), 0);
    let stored = runtime.block_on(state_of(&state, &key));
    for (name, value) in fields {
        assert_eq!(stored["tally"]["state"][name], *value);
    }
    print_report(
        "two releases, one with fields that the other does not know",
        &seen,
    );
}
