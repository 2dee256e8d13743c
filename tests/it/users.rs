//! The sessions of users on real stores: two servers, many users, and broken connections.

#[path = "../../crates/session/tests/support/mod.rs"]
mod crate_support;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::support::{Backend, DEADLINE, proxy::Proxy};
use axum::http::StatusCode;
use crate_support::members::{REALM, World};
use tally_session::{
    Config,
    store::{self, StoreOptions},
};
use tokio::{task::JoinSet, time::timeout};

const USERS: u64 = 200;
const SESSIONS: usize = 10;

/// The number of tasks. One task changes all sessions of a user, so the expected list is known.
const TASKS: u64 = 16;

async fn world(url: &str) -> World {
    let options = StoreOptions::new(url.parse().expect("a URL"));
    let store = store::open(&options).await.expect("opened");
    World::new(&store, &Config::default(), None)
}

/// A fixed sequence of pseudorandom numbers, so that a failure can be reproduced.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).expect("small") % limit
    }
}

/// Signs a user in ten times, then in and out at random, and checks the list after each step.
async fn sign_in_and_out(world: &World, user: u64) {
    let (name, mut dice) = (format!("user {user}"), Dice(user));
    let name = name.replace(' ', "-");
    let mut cookies = Vec::new();
    for _ in 0..SESSIONS {
        cookies.push(world.sign_in(&name, "").await);
    }
    for _ in 0..4 {
        match dice.below(4) {
            0 => cookies.push(world.sign_in(&name, "").await),
            1 if cookies.len() > 1 => {
                let place = dice.below(cookies.len() - 1) + 1;
                let ended = cookies.remove(place);
                let short_id = world.get("/short-id", &ended).await;
                let seen = world.post(&format!("/end/{short_id}"), &cookies[0]).await;
                assert_eq!(seen.body, "true");
                assert_eq!(world.get("/who", &ended).await, "");
            }
            2 if !cookies.is_empty() => {
                let kept = cookies.swap_remove(dice.below(cookies.len()));
                let ended = world.post("/end-others", &kept).await.body;
                assert_eq!(ended, format!("Some({})", cookies.len()));
                cookies = vec![kept];
            }
            _ => {
                let ended = world.managers[0].sessions_of(REALM, &name).end_all().await;
                assert_eq!(ended.expect("ended"), Some(cookies.len() as u64));
                cookies.clear();
            }
        }
        let sessions = world.managers[1].sessions_of(REALM, &name);
        let listed = sessions.list().await.expect("listed");
        let listed: BTreeSet<String> = listed.into_iter().map(|session| session.short_id).collect();
        let mut expected = BTreeSet::new();
        for cookie in &cookies {
            expected.insert(world.get("/short-id", cookie).await);
        }
        assert_eq!(listed, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lists_of_200_users_are_exact_while_they_sign_in_and_out() {
    for backend in [Backend::redis(&[]), Backend::postgres(&[])] {
        lists_are_exact(&backend).await;
    }
}

async fn lists_are_exact(backend: &Backend) {
    let world = Arc::new(world(&backend.url()).await);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let world = Arc::clone(&world);
        tasks.spawn(async move {
            for user in (task..USERS).step_by(usize::try_from(TASKS).expect("small")) {
                sign_in_and_out(&world, user).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a task");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_of_users_survives_a_killed_redis_and_is_rebuilt_if_lost() {
    let redis = Backend::redis(&["--appendonly", "yes", "--appendfsync", "always"]);
    let world = world(&redis.url()).await;
    let mut cookies = Vec::new();
    for _ in 0..SESSIONS {
        cookies.push(world.sign_in("ada", "").await);
    }
    redis.kill();
    redis.start_again();
    let sessions = world.managers[1].sessions_of(REALM, "ada");
    let listed = async |number: usize| {
        let is_listed = async || {
            let listed = sessions.list().await;
            listed.is_ok_and(|listed| listed.len() == number)
        };
        until(is_listed).await;
    };
    until(async || world.get("/who", &cookies[0]).await == "ada").await;
    listed(SESSIONS).await;
    let index = ["tally:{console}:users", "tally:{console}:users-to-check"];
    assert_eq!(redis.ask(&["del", index[0], index[1]]), "2");
    listed(0).await;
    world.managers[0].start();
    listed(SESSIONS).await;
    assert_eq!(
        sessions.end_all().await.expect("ended"),
        Some(SESSIONS as u64)
    );
    for cookie in &cookies {
        assert_eq!(world.get("/who", cookie).await, "");
    }
}

/// Waits until a condition is met.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, met).await.expect("the condition is met");
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_all_sessions_of_a_user_survives_broken_connections() {
    for backend in [Backend::redis(&[]), Backend::postgres(&[])] {
        all_are_ended_over_broken_connections(&backend).await;
    }
}

async fn all_are_ended_over_broken_connections(backend: &Backend) {
    let proxy = Proxy::start(backend.port, 40);
    let world = world(&backend.url_at(proxy.port)).await;
    proxy.cutting.store(true, Ordering::SeqCst);
    let mut cookies = Vec::new();
    until(async || {
        let seen = world.post("/sign-in/ada/200", "").await;
        if seen.status == StatusCode::OK {
            cookies.push(seen.cookie);
        }
        cookies.len() == 4 * SESSIONS
    })
    .await;
    let sessions = world.managers[1].sessions_of(REALM, "ada");
    until(async || sessions.end_all().await.is_ok()).await;
    assert!(proxy.cuts.load(Ordering::SeqCst) > 0);
    let straight = self::world(&backend.url()).await;
    for cookie in &cookies {
        assert_eq!(straight.get("/who", cookie).await, "");
    }
}
