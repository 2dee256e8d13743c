//! Sign-ins and the sessions of a user, over HTTP in process, on two servers with one store.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
    routing::get,
};
use proptest::prelude::*;
use support::{
    Seen, ask,
    members::{REALM, World},
    memory, send,
};
use tally_session::{
    Config, Map, Session,
    auth::Limits,
    store::{self, Store, StoreOptions},
};

/// Each store that needs no server, and whether it can list the sessions of a user. The stores use the folder.
async fn stores(folder: &tempfile::TempDir) -> Vec<(Arc<dyn Store>, bool)> {
    let folder = folder.path().display();
    let mut urls = vec![("memory:".to_owned(), true)];
    if cfg!(feature = "sqlite") {
        urls.push((format!("sqlite://{folder}/sessions.sqlite"), true));
    }
    if cfg!(feature = "file") {
        urls.push((format!("file://{folder}/sessions"), false));
    }
    let mut stores = Vec::new();
    for (url, can_list) in urls {
        let options = StoreOptions::new(url.parse().expect("a URL"));
        stores.push((store::open(&options).await.expect("opened"), can_list));
    }
    stores
}

#[tokio::test]
async fn signing_in_keeps_a_guests_data_and_drops_another_users() {
    let folder = tempfile::tempdir().expect("a folder");
    for (store, _) in stores(&folder).await {
        let world = World::new(&store, &Config::default(), None);
        let guest = world.post("/put/tea", "").await.cookie;
        let failed = world.post("/sign-in/ada/500", &guest).await;
        assert_eq!(failed.set_cookie, None, "the old id still works");
        assert_eq!(world.get("/who", &guest).await, "");
        let ada = world.sign_in("ada", &guest).await;
        assert_eq!(world.get("/who", &ada).await, "ada");
        assert_eq!(world.get("/cart", &ada).await, "tea");
        assert_eq!(world.get("/cart", &guest).await, "", "the old id is dead");
        let again = world.sign_in("ada", &ada).await;
        assert_eq!(world.get("/cart", &again).await, "tea");
        let bob = world.sign_in("bob", &again).await;
        assert_eq!(world.get("/who", &bob).await, "bob");
        assert_eq!(world.get("/cart", &bob).await, "", "the cart was ada's");
        let failed = world.post("/sign-in/ada/500", &bob).await;
        assert_eq!(failed.set_cookie, None);
        assert_eq!(world.get("/who", &bob).await, "bob");
        let out = world.post("/sign-out", &bob).await.cookie;
        assert_eq!(world.get("/who", &out).await, "");
        assert_eq!(world.get("/who", &bob).await, "");
    }
}

#[tokio::test]
async fn a_sign_in_ends_at_the_next_request_after_the_password_has_changed() {
    let world = World::new(&memory().await, &Config::default(), None);
    let ada = world.sign_in("ada", "").await;
    for path in ["/account", "/without-layer"] {
        assert_eq!(world.get(path, &ada).await, "Hello ada");
    }
    let set = |password: &str| {
        let mut passwords = world.passwords.lock().expect("not poisoned");
        passwords.insert("ada".to_owned(), password.to_owned());
    };
    set("another");
    assert_eq!(
        ask(&world.servers[1], "/account", &ada).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        world.get("/who", &ada).await,
        "",
        "the sign-in has been removed"
    );
    set("secret");
    assert_eq!(
        ask(&world.servers[1], "/account", &ada).await.status,
        StatusCode::UNAUTHORIZED
    );
    let ada = world.sign_in("ada", "").await;
    set("gone");
    assert_eq!(
        ask(&world.servers[1], "/account", &ada).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn browsers_are_redirected_to_the_sign_in_page_and_other_clients_get_401() {
    let world = World::new(&memory().await, &Config::default(), None);
    let navigate = |method: Method, path: &'static str| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8");
        let app = &world.servers[0];
        async move { send(app, request.body(Body::empty()).expect("a request")).await }
    };
    let seen = navigate(Method::GET, "/account?tab=1&x=%26").await;
    assert_eq!(seen.status, StatusCode::SEE_OTHER);
    let to = "/welcome?next=%2Faccount%3Ftab%3D1%26x%3D%2526";
    assert_eq!(seen.headers[header::LOCATION], to);
    assert_eq!(seen.headers[header::VARY], "Cookie");
    assert_eq!(
        navigate(Method::GET, "/without-layer").await.status,
        StatusCode::SEE_OTHER
    );
    let posted = navigate(Method::POST, "/account").await;
    assert_eq!(posted.status, StatusCode::SEE_OTHER);
    assert_eq!(
        posted.headers[header::LOCATION],
        "/welcome",
        "a POST has no path to return to"
    );
    let program = world.post("/account", "").await;
    assert_eq!(program.status, StatusCode::UNAUTHORIZED);
    assert_eq!(program.set_cookie, None);
}

#[tokio::test]
async fn a_user_can_list_sessions_and_end_one_the_others_or_all() {
    let folder = tempfile::tempdir().expect("a folder");
    for (store, can_list) in stores(&folder).await {
        let world = World::new(&store, &Config::default(), None);
        let mine = world.post_as("/sign-in/ada/200", "", "Mine").await.cookie;
        let phone = world.post_as("/sign-in/ada/200", "", "Phone").await.cookie;
        let office = world.sign_in("ada", "").await;
        let bob = world.sign_in("bob", "").await;
        if can_list {
            let devices = world.get("/list", &mine).await;
            assert_eq!(devices.lines().count(), 3, "{devices}");
            let own = format!("{} Mine current", world.get("/short-id", &mine).await);
            assert!(devices.lines().any(|line| line == own), "{devices}");
            let phone_id = world.get("/short-id", &phone).await;
            assert!(devices.contains(&format!("{phone_id} Phone")), "{devices}");
            // The session's id changes after it was listed.
            let phone = world.post("/cycle", &phone).await.cookie;
            assert_eq!(
                world.post(&format!("/end/{phone_id}"), &mine).await.body,
                "true"
            );
            assert_eq!(world.get("/who", &phone).await, "");
            assert_eq!(
                world.post(&format!("/end/{phone_id}"), &mine).await.body,
                "false"
            );
            let bobs = world.get("/short-id", &bob).await;
            assert_eq!(
                world.post(&format!("/end/{bobs}"), &mine).await.body,
                "false"
            );
        } else {
            let seen = ask(&world.servers[0], "/list", &mine).await;
            assert_eq!(seen.status, StatusCode::NOT_IMPLEMENTED);
            assert_eq!(seen.body, "This site can't list your sessions.\n");
        }
        let ended = world.post("/end-others", &mine).await.body;
        assert_eq!(ended, if can_list { "Some(1)" } else { "None" });
        assert_eq!(world.get("/who", &office).await, "");
        assert_eq!(
            world.get("/who", &mine).await,
            "ada",
            "the current session stays"
        );
        let again = world.sign_in("ada", "").await;
        let ended = world.post("/end-all", &mine).await;
        assert_eq!(ended.body, if can_list { "Some(2)" } else { "None" });
        for cookie in [&mine, &again] {
            assert_eq!(world.get("/who", cookie).await, "");
        }
        assert_eq!(world.get("/who", &bob).await, "bob");
        let later = world.sign_in("ada", "").await;
        assert_eq!(world.get("/who", &later).await, "ada");
        let reset = world.managers[1].sessions_of(REALM, "ada").end_all().await;
        assert_eq!(reset.expect("ended"), can_list.then_some(1));
        assert_eq!(world.get("/who", &later).await, "");
    }
}

#[tokio::test]
async fn subscribers_are_notified_when_their_session_is_ended_elsewhere() {
    let world = World::new(&memory().await, &Config::default(), None);
    let (mine, phone) = (
        world.sign_in("ada", "").await,
        world.sign_in("ada", "").await,
    );
    let received: Arc<Mutex<Option<Session<Map>>>> = Arc::default();
    let slot = Arc::clone(&received);
    let app = Router::new()
        .route(
            "/",
            get(async move |session: Session<Map>| {
                *slot.lock().expect("not poisoned") = Some(session);
            }),
        )
        .layer(world.managers[0].layer());
    ask(&app, "/", &phone).await;
    let session = received
        .lock()
        .expect("not poisoned")
        .take()
        .expect("a session");
    let mut subscription = session
        .subscribe()
        .await
        .expect("subscribed")
        .expect("a session");
    subscription.next().await.expect("the current state");
    world.post("/end-others", &mine).await;
    assert_eq!(
        subscription.next().await,
        Some(tally_session::SessionEvent::Ended)
    );
}

#[tokio::test]
async fn a_user_has_at_most_the_configured_number_of_sessions() {
    let config = Config::default().with_max_user_sessions(2_u32);
    let world = World::new(&memory().await, &config, None);
    let first = world.sign_in("ada", "").await;
    let second = world.sign_in("ada", "").await;
    let bob = world.sign_in("bob", "").await;
    let third = world.sign_in("ada", "").await;
    let mut alive = 0;
    for cookie in [&first, &second] {
        alive += world.get("/who", cookie).await.len();
    }
    assert_eq!(alive, 3, "one of ada's older sessions is left");
    assert_eq!(world.get("/who", &third).await, "ada");
    assert_eq!(world.get("/who", &bob).await, "bob");
}

#[tokio::test]
async fn remember_me_overrides_the_configs_ages() {
    let month = 30 * 86_400;
    let limits = Limits {
        idle: Some(month),
        absolute: None,
    };
    let config = Config::default().with_expire_at_browser_close(true);
    let world = World::new(&memory().await, &config, Some(limits));
    let guest = world
        .post("/put/tea", "")
        .await
        .set_cookie
        .expect("a cookie");
    assert!(!guest.contains("Max-Age"), "{guest}");
    let seen = world.post("/sign-in/ada/200", "").await;
    let cookie = seen.set_cookie.expect("a cookie");
    assert!(cookie.ends_with(&format!("Max-Age={month}")), "{cookie}");
    let out = world.post("/sign-out", &seen.cookie).await;
    let cookie = out.set_cookie.expect("a cookie");
    assert!(!cookie.contains("Max-Age"), "{cookie}");
}

#[tokio::test]
async fn user_agents_and_addresses_are_not_stored_if_the_config_forbids_it() {
    let config = Config::default()
        .with_keep_user_agents(false)
        .with_keep_addresses(false);
    let world = World::new(&memory().await, &config, None);
    let ada = world.sign_in("ada", "").await;
    let devices = world.get("/list", &ada).await;
    assert!(devices.ends_with("  current"), "{devices}");
    let sessions = world.managers[0].sessions_of(REALM, "ada");
    let listed = sessions.list().await.expect("listed");
    assert_eq!((&listed[0].user_agent, listed[0].address), (&None, None));
}

#[tokio::test]
async fn reading_the_index_removes_stale_entries() {
    let store = memory().await;
    let world = World::new(&store, &Config::default(), None);
    let (first, second) = (
        world.sign_in("ada", "").await,
        world.sign_in("ada", "").await,
    );
    let users = store.users().expect("an index");
    let due = || async { users.due(i64::MAX, 10).await.expect("due") };
    assert_eq!(due().await.len(), 2);
    world.post("/sign-out", &first).await;
    assert_eq!(due().await.len(), 1, "a sign-out removes its entry");
    // As a store does that removes expired records on its own.
    let id = due().await[0].id;
    store.delete(&id).await.expect("deleted");
    assert_eq!(world.get("/who", &second).await, "");
    let left = world.managers[0].sessions_of(REALM, "ada").list().await;
    assert_eq!(left.expect("listed"), []);
    assert_eq!(due().await.len(), 0, "listing removes the stale entry");
}

#[tokio::test]
async fn the_background_task_removes_entries_of_expired_sessions() {
    let store = memory().await;
    let config = Config::default().with_cookie_age(1_u64);
    let world = World::new(&store, &config, None);
    let ada = world.sign_in("ada", "").await;
    while !world.get("/who", &ada).await.is_empty() {
        tokio::task::yield_now().await;
    }
    let users = store.users().expect("an index");
    let entries = async || users.due(i64::MAX, 10).await.expect("due").len();
    assert_eq!(entries().await, 1, "nothing has checked the entry yet");
    world.managers[0].start();
    let gone = async {
        while entries().await > 0 {
            tokio::task::yield_now().await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(30), gone).await;
    gone.expect("the entry is removed");
}

/// An action of a browser or of a user.
#[derive(Clone, Debug)]
enum Step {
    SignIn {
        browser: usize,
        user: usize,
    },
    FailedSignIn {
        browser: usize,
        user: usize,
    },
    SignOut {
        browser: usize,
    },
    Cycle {
        browser: usize,
    },
    /// One browser ends the session of another.
    End {
        browser: usize,
        other: usize,
    },
    EndOthers {
        browser: usize,
    },
    EndAll {
        user: usize,
    },
}

const BROWSERS: usize = 4;
const USERS: [&str; 2] = ["ada", "bob"];

fn step() -> impl Strategy<Value = Step> {
    let (browser, user) = (0..BROWSERS, 0..USERS.len());
    prop_oneof![
        4 => (browser.clone(), user.clone()).prop_map(|(browser, user)| Step::SignIn { browser, user }),
        1 => (browser.clone(), user.clone()).prop_map(|(browser, user)| Step::FailedSignIn { browser, user }),
        1 => browser.clone().prop_map(|browser| Step::SignOut { browser }),
        1 => browser.clone().prop_map(|browser| Step::Cycle { browser }),
        2 => (browser.clone(), browser.clone()).prop_map(|(browser, other)| Step::End { browser, other }),
        1 => browser.prop_map(|browser| Step::EndOthers { browser }),
        1 => user.prop_map(|user| Step::EndAll { user }),
    ]
}

/// The browsers' cookies and signed-in users.
#[derive(Default)]
struct Model {
    cookies: [String; BROWSERS],
    users: [Option<usize>; BROWSERS],
}

impl Model {
    async fn take(&mut self, step: &Step, world: &World) {
        match *step {
            Step::SignIn { browser, user } => {
                let signed_in = world.sign_in(USERS[user], &self.cookies[browser]).await;
                self.cookies[browser] = signed_in;
                self.users[browser] = Some(user);
            }
            Step::FailedSignIn { browser, user } => {
                let path = format!("/sign-in/{}/503", USERS[user]);
                world.post(&path, &self.cookies[browser]).await;
            }
            Step::SignOut { browser } => {
                self.obey(
                    browser,
                    world.post("/sign-out", &self.cookies[browser]).await,
                );
                self.users[browser] = None;
            }
            Step::Cycle { browser } => {
                self.obey(browser, world.post("/cycle", &self.cookies[browser]).await);
            }
            Step::End { browser, other } => {
                let short_id = world.get("/short-id", &self.cookies[other]).await;
                let path = format!(
                    "/end/{}",
                    if short_id.is_empty() {
                        "none"
                    } else {
                        &short_id
                    }
                );
                let seen = world.post(&path, &self.cookies[browser]).await;
                let user = self.users[browser];
                let is_mine = user.is_some() && self.users[other] == user;
                let expected = if user.is_none() {
                    StatusCode::UNAUTHORIZED
                } else {
                    StatusCode::OK
                };
                assert_eq!(seen.status, expected);
                assert_eq!(seen.body == "true", is_mine, "{}", seen.body);
                if is_mine {
                    self.users[other] = None;
                }
            }
            Step::EndOthers { browser } => {
                let seen = world.post("/end-others", &self.cookies[browser]).await;
                if let Some(user) = self.users[browser] {
                    assert_eq!(seen.status, StatusCode::OK);
                    for other in (0..BROWSERS).filter(|other| *other != browser) {
                        self.users[other] = self.users[other].filter(|of| *of != user);
                    }
                }
            }
            Step::EndAll { user } => {
                let sessions = world.managers[0].sessions_of(REALM, USERS[user]);
                let expected = self
                    .users
                    .iter()
                    .flatten()
                    .filter(|of| **of == user)
                    .count();
                let ended = sessions.end_all().await.expect("ended");
                assert_eq!(ended, Some(expected as u64));
                for of in &mut self.users {
                    *of = of.filter(|of| *of != user);
                }
            }
        }
    }

    fn obey(&mut self, browser: usize, seen: Seen) {
        if seen.set_cookie.is_some() {
            self.cookies[browser] = seen.cookie;
        }
    }

    async fn check(&self, world: &World) {
        let mut alive: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (cookie, user) in self.cookies.iter().zip(self.users) {
            let user = user.map_or("", |user| USERS[user]);
            assert_eq!(world.get("/who", cookie).await, user);
            let short_id = world.get("/short-id", cookie).await;
            alive.entry(user).or_default().insert(short_id);
        }
        for user in USERS {
            let sessions = world.managers[1].sessions_of(REALM, user);
            let listed = sessions.list().await.expect("listed");
            let listed: BTreeSet<_> = listed.into_iter().map(|session| session.short_id).collect();
            assert_eq!(listed, alive.remove(user).unwrap_or_default(), "{user}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn the_list_always_matches_the_signed_in_sessions(steps in prop::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let world = World::new(&memory().await, &Config::default(), None);
            let mut model = Model::default();
            for step in &steps {
                model.take(step, &world).await;
                model.check(&world).await;
            }
        });
    }
}

/// Ends all sessions of a user while their ids change all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_session_escapes_end_all_by_changing_its_id() {
    let folder = tempfile::tempdir().expect("a folder");
    for (store, can_list) in stores(&folder).await {
        for _ in 0..20 {
            let world = Arc::new(World::new(&store, &Config::default(), None));
            let mut fugitives = Vec::new();
            for _ in 0..4 {
                let mut cookie = world.sign_in("ada", "").await;
                let world = Arc::clone(&world);
                fugitives.push(tokio::spawn(async move {
                    loop {
                        let seen = world.post("/cycle", &cookie).await;
                        match seen.set_cookie {
                            Some(_) if !seen.cookie.ends_with('=') => cookie = seen.cookie,
                            _ => return world.get("/who", &cookie).await,
                        }
                        if !can_list && world.get("/who", &cookie).await.is_empty() {
                            return String::new();
                        }
                    }
                }));
            }
            tokio::task::yield_now().await;
            let sessions = world.managers[1].sessions_of(REALM, "ada");
            sessions.end_all().await.expect("ended");
            for fugitive in fugitives {
                assert_eq!(fugitive.await.expect("no panic"), "");
            }
            if can_list {
                assert_eq!(sessions.list().await.expect("listed"), []);
            }
        }
    }
}
