//! A Redis Cluster whose slots move and whose masters fail.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{
    Backend, Server,
    load_generator::{LoadGenerator, LoadReport},
    page::Page,
    until,
};
use tally_session::SessionId;

/// Two servers on the Cluster of this node. Their setting names no other node.
fn two_servers(node: &Backend) -> (Server, Server) {
    let store = format!("redis-cluster://127.0.0.1:{}", node.port);
    let server = || Server::on(&store, |setup| setup);
    (server(), server())
}

#[test]
fn a_cluster_of_three_masters_keeps_the_sessions() {
    let masters = Backend::cluster(3, 0, &["--cluster-enabled", "yes", "--cluster-port", "0"]);
    let (first, second) = two_servers(&masters[0]);
    let cookies: Vec<_> = (0..60).map(|_| first.new_session()).collect();
    for cookie in &cookies {
        assert_eq!(second.visit(cookie), 2);
        assert_eq!(first.visit(cookie), 3);
    }
    for master in &masters {
        assert!(master.keys() > 0, "a master holds nothing");
    }
}

#[test]
fn notifications_of_a_cluster_stay_on_the_node_of_the_session() {
    let masters = Backend::cluster(3, 0, &["--cluster-enabled", "yes"]);
    let (first, second) = two_servers(&masters[0]);
    let cookies: Vec<_> = (0..30).map(|_| first.new_session()).collect();
    let mut pages: Vec<_> = cookies
        .iter()
        .map(|cookie| Page::open(&second, cookie))
        .collect();
    for (cookie, page) in cookies.iter().zip(&mut pages) {
        first.visit(cookie);
        page.until_visits(2);
    }
    let subscribed = masters.iter().map(|master| {
        let channels = master.ask(&["pubsub", "shardchannels"]);
        let passed_on = master.ask(&["cluster", "info"]);
        assert!(!passed_on.contains("messages_publish_sent"), "{passed_on}");
        channels.lines().count()
    });
    let subscribed: Vec<_> = subscribed.collect();
    assert!(!subscribed.contains(&0), "{subscribed:?}");
    assert_eq!(subscribed.iter().sum::<usize>(), cookies.len());
    drop(pages);
    for master in &masters {
        until(|| {
            master
                .ask(&["pubsub", "shardchannels"])
                .is_empty()
                .then_some(())
        });
    }
}

/// A visit that takes longer than this has run into a time-out.
const TIMED_OUT: Duration = Duration::from_secs(2);

/// Visitors with one session each, who visit both servers.
struct Visitors {
    cookies: Vec<String>,
    generators: Vec<LoadGenerator>,
}

impl Visitors {
    fn start(first: &Server, second: &Server) -> Self {
        let cookies = (0..8).map(|_| first.new_session()).collect();
        Self::with(cookies, first, second)
    }

    fn with(cookies: Vec<String>, first: &Server, second: &Server) -> Self {
        let servers = [first.url(""), second.url("")];
        let generators = cookies
            .iter()
            .map(|cookie| LoadGenerator::start(&servers, cookie, 2));
        Self {
            generators: generators.collect(),
            cookies,
        }
    }

    fn until_acknowledged(&self) {
        for load in &self.generators {
            load.until_acknowledged(20);
        }
    }

    /// Asserts that no acknowledged visit was lost, and returns each visitor's report.
    fn finish(self, server: &Server) -> Vec<LoadReport> {
        let seen: Vec<LoadReport> = self
            .generators
            .into_iter()
            .map(LoadGenerator::finish)
            .collect();
        for (seen, cookie) in seen.iter().zip(&self.cookies) {
            seen.assert_nothing_lost(server.stored_visits(cookie));
        }
        seen
    }
}

/// Runs a command of `redis-cli --cluster`. Returns whether it succeeded, and its output.
fn manage(arguments: &[&str]) -> (bool, String) {
    let done = Command::new("redis-cli")
        .arg("--cluster")
        .args(arguments)
        .arg("--cluster-yes")
        .output()
        .expect("redis-cli");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let errors = String::from_utf8_lossy(&done.stderr);
    (done.status.success(), said + &errors)
}

/// Runs a command of `redis-cli --cluster` until it succeeds.
///
/// It fails at first if the nodes have not all received the result of the previous command.
fn manage_until_done(arguments: &[&str]) {
    until(|| {
        let (succeeded, said) = manage(arguments);
        let is_early = said.contains("Nodes don't agree") || said.contains("The cluster is down");
        assert!(succeeded || is_early, "{arguments:?}: {said}");
        succeeded.then_some(())
    });
}

/// How many slots a master has, by its own account.
fn slots_of(node: &Backend) -> usize {
    let nodes = node.ask(&["cluster", "nodes"]);
    let own = nodes.lines().find(|line| line.contains("myself"));
    let ranges = own.expect("its own line").split(' ').skip(8);
    // A slot that is open stands in brackets.
    let slots = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |slot: &str| slot.parse::<usize>().ok();
        Some(number(last)? - number(first)? + 1)
    };
    ranges.filter_map(slots).sum()
}

/// Moves all slots from one master to another but `rest`, once all nodes agree on where the slots are. A move that
/// breaks off is continued.
fn reshard(nodes: &[&Backend], from: &Backend, to: &Backend, rest: usize) {
    let id = |node: &Backend| node.ask(&["cluster", "myid"]);
    let at = format!("127.0.0.1:{}", to.port);
    let (source, target) = (id(from), id(to));
    until(|| {
        until_agreed(nodes);
        let slots = slots_of(from) - rest;
        if slots == 0 {
            return Some(());
        }
        let slots = slots.to_string();
        let (source, target) = (["--cluster-from", &source], ["--cluster-to", &target]);
        let size = ["--cluster-slots", &slots];
        manage(&[&["reshard", &at], &source[..], &target, &size].concat());
        None
    });
}

/// Waits until all nodes know each other and where the slots are. Ends a move that broke off.
fn until_agreed(nodes: &[&Backend]) {
    let known = format!("cluster_known_nodes:{}", nodes.len());
    for node in nodes {
        let at = format!("127.0.0.1:{}", node.port);
        until(|| {
            let info = node.ask(&["cluster", "info"]);
            let is_so = |state: &str| info.lines().any(|line| line.trim() == state);
            (is_so("cluster_state:ok") && is_so(&known)).then_some(())
        });
        until(|| {
            let (succeeded, said) = manage(&["check", &at]);
            if said.contains("slots are open") {
                manage(&["fix", &at]);
            }
            (succeeded && !said.contains("[ERR]")).then_some(())
        });
    }
}

/// The server with the page is idle, so no command of its own is redirected and shows it that slots have moved.
#[test]
fn open_pages_follow_their_sessions_to_another_node() {
    let masters = Backend::cluster(3, 0, &["--cluster-enabled", "yes"]);
    let [a, b, c] = &masters[..] else {
        panic!("three masters");
    };
    let (first, idle) = two_servers(a);
    let cookies = &sessions_that_move(&first, a)[4..];
    let mut pages: Vec<_> = cookies
        .iter()
        .map(|cookie| Page::open(&idle, cookie))
        .collect();
    reshard(&[a, b, c], a, b, slots_of(a) - MOVED);
    // The first change may come before the new subscription, which makes the page load the session. The others
    // arrive by it.
    for visits in 2..=4 {
        for (cookie, page) in cookies.iter().zip(&mut pages) {
            assert_eq!(first.visit(cookie), visits);
            page.until_visits(visits);
        }
    }
    let subscribed = |node: &Backend| node.ask(&["pubsub", "shardchannels"]).lines().count();
    assert_eq!((subscribed(a), subscribed(b)), (0, 4));
}

/// How many slots move at once. `redis-cli` moves a master's first slots, so the same slots move each time.
const MOVED: usize = 1_000;

/// Creates eight sessions, of which at least four are in the slots that move.
fn sessions_that_move(server: &Server, node: &Backend) -> Vec<String> {
    let moves = |cookie: &String| {
        let id = SessionId::parse(&cookie.as_bytes()["sessionid=".len()..]).expect("an id");
        let key = format!("tally:{}", id.hashed());
        let slot: usize = node
            .ask(&["cluster", "keyslot", &key])
            .parse()
            .expect("a slot");
        slot < MOVED
    };
    let mut sessions: Vec<String> = (0..4).map(|_| server.new_session()).collect();
    let moving = (0..2_000).map(|_| server.new_session()).filter(moves);
    sessions.extend(moving.take(4));
    assert_eq!(sessions.len(), 8);
    sessions
}

#[test]
fn moving_slots_of_a_cluster_under_load_loses_nothing() {
    const CLUSTERED: &[&str] = &["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
    let masters = Backend::cluster(3, 0, CLUSTERED);
    let [a, b, c] = &masters[..] else {
        panic!("three masters");
    };
    let (first, second) = two_servers(a);
    let visitors = Visitors::with(sessions_that_move(&first, a), &first, &second);
    visitors.until_acknowledged();
    reshard(&[a, b, c], a, b, slots_of(a) - MOVED);
    visitors.until_acknowledged();
    let added = Backend::redis(CLUSTERED);
    let at = |node: &Backend| format!("127.0.0.1:{}", node.port);
    manage_until_done(&["add-node", &at(&added), &at(b)]);
    reshard(&[a, b, c, &added], b, &added, slots_of(b) - MOVED);
    visitors.until_acknowledged();
    assert!(added.keys() >= 4, "no session has moved");
    // A master that has lost its last slot becomes a replica.
    reshard(&[a, b, c, &added], &added, c, 0);
    visitors.until_acknowledged();
    until_agreed(&[a, b, c, &added]);
    manage_until_done(&["del-node", &at(b), &added.ask(&["cluster", "myid"])]);
    visitors.until_acknowledged();
    for seen in visitors.finish(&first) {
        assert_eq!(seen.failures(), 0, "{:?}", seen.failed);
        assert!(seen.slowest < TIMED_OUT, "{:?}", seen.slowest);
        eprintln!(
            "a Cluster whose slots move: the slowest visit took {:.1?}",
            seen.slowest
        );
    }
}

#[test]
fn a_silent_master_of_a_cluster_is_replaced_by_its_replica() {
    let nodes = Backend::cluster(
        6,
        1,
        &["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"],
    );
    for node in &nodes {
        until(|| {
            let replication = node.ask(&["info", "replication"]);
            let linked = ["master_link_status:up", "connected_slaves:1"];
            linked
                .iter()
                .any(|state| replication.contains(state))
                .then_some(())
        });
    }
    let is_master = |node: &Backend| node.ask(&["info", "replication"]).contains("role:master");
    let silent = nodes.iter().find(|node| is_master(node)).expect("a master");
    // The servers' setting names only this node.
    let (first, second) = two_servers(silent);
    let visitors = Visitors::start(&first, &second);
    visitors.until_acknowledged();
    let mut pages: Vec<_> = visitors
        .cookies
        .iter()
        .map(|cookie| (cookie.clone(), Page::open(&second, cookie)))
        .collect();
    // The promoted replica may lack the last visits, because `store_replicas` is not set here.
    let others: Vec<_> = nodes
        .iter()
        .filter(|node| node.port != silent.port)
        .collect();
    let masters = others.iter().filter(|node| is_master(node)).count();
    silent.signal("STOP");
    until(|| (others.iter().filter(|node| is_master(node)).count() > masters).then_some(()));
    let promoted = Instant::now();
    visitors.until_acknowledged();
    assert!(promoted.elapsed() < Duration::from_secs(10));
    eprintln!(
        "a silent master: all visitors are served {:.1?} after the promotion",
        promoted.elapsed()
    );
    for load in visitors.generators {
        let seen = load.finish();
        assert!(
            seen.failed.keys().all(|status| *status == 503),
            "{:?}",
            seen.failed
        );
    }
    for (cookie, page) in &mut pages {
        for _ in 0..3 {
            let visits = first.visit(cookie);
            page.until_visits(visits);
        }
    }
}
