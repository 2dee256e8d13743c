//! Random sequences of a client's actions on two servers that share a store, checked against a model. Also faults of
//! the store at the worst moment between two writes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use serde_json::Value;

use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{
    auth::{SignIn, UserSessions},
    cookie::{Cookie, Sent},
    manager::Shared,
    request::RequestSession,
    store::{
        EncodedRecord, SessionIndex, SessionScan, Store, StoreOptions, StoreUrl, Swap, UserIndex,
        Values,
    },
    *,
};
use state::tests::Counter;

type Session = super::Session<Counter>;

/// One action of a browser, on the server with this number.
#[derive(Clone, Debug)]
enum Step {
    Add(usize),
    /// This number of additions at once, spread over both servers.
    AddsAtOnce(u64),
    Reset(usize),
    Prefer(usize, u8, u8),
    /// Preferences of different names at once, spread over both servers.
    PreferencesAtOnce(u8),
    CycleId(usize),
    Flush(usize),
    /// Adds, and then the response fails.
    FailedAdd(usize),
    /// Asks for a new id, and then the response fails.
    FailedCycleId(usize),
    Read(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let server = 0..2_usize;
    let step = prop_oneof![
        4 => server.clone().prop_map(Step::Add),
        2 => (1..12_u64).prop_map(Step::AddsAtOnce),
        1 => server.clone().prop_map(Step::Reset),
        2 => (server.clone(), 0..4_u8, any::<u8>()).prop_map(|(server, name, value)| Step::Prefer(server, name, value)),
        1 => (1..8_u8).prop_map(Step::PreferencesAtOnce),
        2 => server.clone().prop_map(Step::CycleId),
        1 => server.clone().prop_map(Step::Flush),
        2 => server.clone().prop_map(Step::FailedAdd),
        1 => server.clone().prop_map(Step::FailedCycleId),
        2 => server.prop_map(Step::Read),
    ];
    prop::collection::vec(step, 1..40)
}

/// A browser with one cookie, and two servers.
struct World {
    servers: [Arc<Shared<Counter>>; 2],
    cookie: Option<SessionId>,
}

/// The expected content of the session.
#[derive(Debug, Default, PartialEq)]
struct Model {
    count: u64,
    preferences: BTreeMap<String, Value>,
}

impl World {
    async fn new() -> Self {
        Self::on(
            &store::open(&StoreOptions::new(StoreUrl::Memory))
                .await
                .expect("memory"),
        )
    }

    fn on(store: &Arc<dyn Store>) -> Self {
        let server = || {
            let config = Config::default();
            Arc::new(Shared::new(config, Arc::clone(store)).expect("random numbers"))
        };
        Self {
            servers: [server(), server()],
            cookie: None,
        }
    }

    /// A world whose browser has added once.
    async fn with_session(store: &Arc<dyn Store>) -> Self {
        let mut world = Self::on(store);
        let session = world.request(0);
        add(&session).await;
        world.succeed(&session).await;
        world
    }

    /// A request with the browser's cookie.
    fn request(&self, server: usize) -> Session {
        let sent = Sent {
            any: self.cookie.is_some(),
            ids: self.cookie.iter().cloned().collect(),
            ..Sent::default()
        };
        let sessions = &self.servers[server % 2];
        let client = ClientInfo {
            address: Some([192, 0, 2, 1].into()),
            is_https: false,
        };
        Session::new(RequestSession::new(
            Arc::clone(sessions),
            sent,
            client,
            None,
            false,
        ))
    }

    /// The response succeeds, and the browser applies its cookie.
    async fn succeed(&mut self, session: &Session) {
        session.commit().await.expect("committed");
        match session.outcome().1 {
            Cookie::Keep => {}
            Cookie::Set(id, _) => self.cookie = Some(id),
            Cookie::Remove => self.cookie = None,
        }
    }

    async fn adds_at_once(&mut self, count: u64) -> Vec<u64> {
        // The first one creates the session if there is none. The others need its cookie.
        let session = self.request(0);
        let mut numbers = vec![add(&session).await];
        self.succeed(&session).await;
        let others: Vec<_> = (1..usize::try_from(count).expect("a small number"))
            .map(|server| {
                let session = self.request(server);
                tokio::spawn(async move { add(&session).await })
            })
            .collect();
        for other in others {
            numbers.push(other.await.expect("no panic"));
        }
        numbers.sort_unstable();
        numbers
    }

    async fn take(&mut self, step: &Step, model: &mut Model) {
        match step {
            Step::Add(server) => {
                let session = self.request(*server);
                model.count += 1;
                assert_eq!(add(&session).await, model.count);
                self.succeed(&session).await;
            }
            Step::AddsAtOnce(count) => {
                let expected: Vec<_> = (model.count + 1..=model.count + count).collect();
                assert_eq!(self.adds_at_once(*count).await, expected);
                model.count += count;
            }
            Step::Reset(server) => {
                let session = self.request(*server);
                session.update(Counter::reset).await.expect("saved");
                self.succeed(&session).await;
                model.count = 0;
            }
            Step::Prefer(server, name, value) => {
                let session = self.request(*server);
                prefer(&session, *name, *value).await;
                self.succeed(&session).await;
                model.prefer(*name, *value);
            }
            Step::PreferencesAtOnce(names) => {
                let session = self.request(0);
                prefer(&session, 100, 1).await;
                self.succeed(&session).await;
                model.prefer(100, 1);
                let changes: Vec<_> = (0..*names)
                    .map(|name| {
                        model.prefer(name, name);
                        let session = self.request(usize::from(name));
                        tokio::spawn(async move { prefer(&session, name, name).await })
                    })
                    .collect();
                for change in changes {
                    change.await.expect("no panic");
                }
            }
            Step::CycleId(server) => {
                let (session, old) = (self.request(*server), self.cookie.clone());
                session.cycle_id();
                self.succeed(&session).await;
                assert!(old.is_none() || self.cookie != old);
            }
            Step::Flush(server) => {
                let session = self.request(*server);
                session.flush().await.expect("deleted");
                self.succeed(&session).await;
                assert_eq!(self.cookie, None);
                *model = Model::default();
            }
            Step::FailedAdd(server) => {
                let session = self.request(*server);
                assert_eq!(add(&session).await, model.count + 1);
                session.roll_back().await;
            }
            Step::FailedCycleId(server) => {
                let session = self.request(*server);
                session.cycle_id();
                session.roll_back().await;
            }
            Step::Read(server) => {
                let session = self.request(*server);
                session.read().await.expect("read");
                self.succeed(&session).await;
            }
        }
    }

    async fn stored(&self, server: usize) -> Model {
        let counter = self.request(server).read().await.expect("read");
        Model {
            count: counter.count,
            preferences: counter.other,
        }
    }
}

impl Model {
    fn prefer(&mut self, name: u8, value: u8) {
        self.preferences
            .insert(name.to_string(), value.to_string().into());
    }
}

async fn add(session: &Session) -> u64 {
    session
        .update(|counter| counter.add())
        .await
        .expect("saved")
}

async fn prefer(session: &Session, name: u8, value: u8) {
    session
        .update(move |counter| {
            let value = value.to_string().into();
            counter.other.insert(name.to_string(), value);
        })
        .await
        .expect("saved");
}

proptest! {
    #[test]
    fn both_servers_always_agree_with_the_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut world = World::new().await;
            let mut model = Model::default();
            for step in &steps {
                world.take(step, &mut model).await;
                for server in 0..2 {
                    assert_eq!(world.stored(server).await, model, "after {step:?}");
                }
            }
        });
    }
}

/// A store that injects faults between the writes of a request.
#[derive(Debug)]
pub(super) struct FaultyStore {
    store: Arc<dyn Store>,
    fault: Mutex<Option<Fault>>,
}

#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The connection breaks after each conditional save, this number of times.
    AfterSave {
        times: u32,
    },
    /// The connection breaks before or after each conditional deletion, this number of times.
    OnDeletion {
        after: bool,
        times: u32,
    },
    /// This session changes its id whenever a scan has listed the sessions.
    CycleId(Session),
    /// The next conditional deletion ends these sessions instead. Then the connection breaks.
    EndSessions(UserSessions<Counter>),
    /// The store restarts during the next scan, and then fails this number of loads.
    Restart {
        failing_loads: u32,
    },
    FailingLoads {
        times: u32,
    },
}

impl FaultyStore {
    pub(super) fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            fault: Mutex::default(),
        })
    }

    pub(super) fn inject(&self, fault: Fault) {
        *self.fault.lock().expect("not poisoned") = Some(fault);
    }

    fn session_to_cycle(&self) -> Option<Session> {
        match &*self.fault.lock().expect("not poisoned") {
            Some(Fault::CycleId(session)) => Some(session.clone()),
            _ => None,
        }
    }

    fn sessions_to_end(&self) -> Option<UserSessions<Counter>> {
        let mut fault = self.fault.lock().expect("not poisoned");
        match fault.take_if(|fault| matches!(fault, Fault::EndSessions(_))) {
            Some(Fault::EndSessions(sessions)) => Some(sessions),
            _ => None,
        }
    }

    /// Whether the store restarts now.
    fn restarts(&self) -> bool {
        let mut fault = self.fault.lock().expect("not poisoned");
        let restarts = matches!(&*fault, Some(Fault::Restart { .. }));
        if let Some(Fault::Restart { failing_loads }) = fault.take_if(|_| restarts) {
            *fault = Some(Fault::FailingLoads {
                times: failing_loads,
            });
        }
        restarts
    }

    /// Whether this load fails.
    fn fails_load(&self) -> bool {
        match &mut *self.fault.lock().expect("not poisoned") {
            Some(Fault::FailingLoads { times }) if *times > 0 => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }

    /// Whether the connection breaks after this save.
    fn breaks_after_save(&self) -> bool {
        match &mut *self.fault.lock().expect("not poisoned") {
            Some(Fault::AfterSave { times }) if *times > 0 => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }

    /// Whether the connection breaks after this deletion (`true`), before it (`false`), or not at all.
    fn breaks_on_deletion(&self) -> Option<bool> {
        match &mut *self.fault.lock().expect("not poisoned") {
            Some(Fault::OnDeletion { after, times }) if *times > 0 => {
                *times -= 1;
                Some(*after)
            }
            _ => None,
        }
    }
}

#[async_trait::async_trait]
impl SessionStore for FaultyStore {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        self.store.create(record).await
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        self.store.save(record).await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        if self.fails_load() {
            return Err(session_store::Error::Backend("away".to_owned()));
        }
        self.store.load(id).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.store.delete(id).await
    }
}

#[async_trait::async_trait]
impl Store for FaultyStore {
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap> {
        let saved = self.store.compare_and_swap(old, new).await?;
        if self.breaks_after_save() {
            return Err(broken());
        }
        Ok(saved)
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        if let Some(sessions) = self.sessions_to_end() {
            sessions.end_all().await.expect("ended");
            return Err(broken());
        }
        match self.breaks_on_deletion() {
            Some(false) => Err(broken()),
            Some(true) => {
                self.store.compare_and_delete(old).await?;
                Err(broken())
            }
            None => self.store.compare_and_delete(old).await,
        }
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        Some(self)
    }

    fn users(&self) -> Option<&dyn UserIndex> {
        self.store.users()
    }

    fn values(&self) -> Option<&dyn Values> {
        self.store.values()
    }
}

#[async_trait::async_trait]
impl SessionIndex for FaultyStore {
    async fn count(&self) -> session_store::Result<u64> {
        self.store.index().expect("a list").count().await
    }

    async fn page(&self, skip: u64, take: u32) -> session_store::Result<Vec<Record>> {
        self.store.index().expect("a list").page(skip, take).await
    }

    async fn search(&self, beginning: &str, take: u32) -> session_store::Result<Vec<Record>> {
        let index = self.store.index().expect("a list");
        index.search(beginning, take).await
    }

    async fn scan(&self) -> session_store::Result<Box<dyn SessionScan + '_>> {
        if self.restarts() {
            return Ok(Box::new(Scan(None)));
        }
        let found = self.page(0, u32::MAX).await?;
        if let Some(session) = self.session_to_cycle() {
            session.cycle_id();
            session.commit().await.expect("committed");
        }
        Ok(Box::new(Scan(Some(found))))
    }
}

/// A scan that returns these sessions in one batch. `None`: the store was restarted.
struct Scan(Option<Vec<Record>>);

#[async_trait::async_trait]
impl SessionScan for Scan {
    async fn next(&mut self) -> session_store::Result<Option<Vec<Record>>> {
        let step = self.0.as_mut().map(std::mem::take);
        Ok(step.filter(|step| !step.is_empty()))
    }

    fn has_seen_all(&mut self) -> bool {
        self.0.is_some()
    }
}

fn broken() -> session_store::Error {
    session_store::Error::Backend("broken".to_owned())
}

/// A world on a faulty store, with a session that was created a minute ago and has one addition.
async fn world_with_faulty_store() -> (World, Arc<FaultyStore>) {
    let memory = store::open(&StoreOptions::new(StoreUrl::Memory))
        .await
        .expect("memory");
    let faulty = FaultyStore::new(memory);
    let store: Arc<dyn Store> = Arc::clone(&faulty) as Arc<dyn Store>;
    let world = World::with_session(&store).await;
    let id = world.cookie.as_ref().expect("a cookie").hashed();
    let mut record = store.load(&id).await.expect("loaded").expect("a record");
    let mut stored = Envelope::<Counter>::of(&record).expect("a session");
    stored.created_at -= 60;
    record = stored
        .record(id, &world.servers[0].config)
        .expect("a record");
    store.save(&record).await.expect("saved");
    (world, faulty)
}

const REALM: &str = "members";

#[tokio::test(start_paused = true)]
async fn a_sign_in_takes_effect_only_once_the_old_id_is_deleted() {
    for (after, times, works) in [
        (false, 1, true),
        (true, 1, true),
        (true, 2, true),
        (false, u32::MAX, false),
    ] {
        let (mut world, store) = world_with_faulty_store().await;
        let old = world.cookie.clone();
        store.inject(Fault::OnDeletion { after, times });
        let session = world.request(0);
        let sign_in = session.sign_in(REALM, SignIn::new("ada"));
        sign_in.await.expect("accepted");
        let signed_in = session.commit().await;
        assert_eq!(signed_in.is_ok(), works, "{signed_in:?}");
        if works {
            world.succeed(&session).await;
            assert!(world.cookie != old);
        }
        let is_signed_in = world.request(1).signed_in(REALM).await.expect("read");
        assert_eq!(is_signed_in.is_some(), works);
        assert_eq!(world.stored(1).await.count, 1, "the session survives");
        if works {
            world.cookie = old;
            assert_eq!(world.stored(1).await.count, 0, "the old id is dead");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_ended_during_an_id_change_stays_ended_after_a_lost_response() {
    let (mut world, store) = world_with_faulty_store().await;
    let session = world.request(0);
    let sign_in = session.sign_in(REALM, SignIn::new("ada"));
    sign_in.await.expect("accepted");
    world.succeed(&session).await;
    let sessions = world
        .request(1)
        .user_sessions(REALM)
        .await
        .expect("signed in");
    store.inject(Fault::EndSessions(sessions));
    let session = world.request(0);
    session.cycle_id();
    world.succeed(&session).await;
    assert_eq!(world.stored(0).await.count, 0);
    assert_eq!(
        store.count().await.expect("counted"),
        0,
        "no record is left"
    );
}

#[tokio::test]
async fn a_session_that_changes_its_id_does_not_escape_a_revocation() {
    let (world, store) = world_with_faulty_store().await;
    let shared: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
    let operator = World::with_session(&shared).await;
    // The session moves after each scan has listed the sessions, so the scan never sees the new id.
    let fugitive = world.request(1);
    fugitive.read().await.expect("read");
    store.inject(Fault::CycleId(fugitive.clone()));
    let mine = operator.request(0);
    assert!(mine.revoke_others().await.expect("revoked").is_some());
    assert_eq!(fugitive.read().await.expect("read").count, 0);
    assert_eq!(store.count().await.expect("counted"), 1);
    assert_eq!(operator.stored(1).await.count, 1);
    // A session that began after the revocation can change its id.
    let mut later = World::with_session(&shared).await;
    let session = later.request(1);
    session.cycle_id();
    later.succeed(&session).await;
    assert_eq!(later.stored(0).await.count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_starts_again_after_a_restart_of_the_store() {
    for (failing_loads, works) in [(0, true), (3, true), (u32::MAX, false)] {
        let (world, store) = world_with_faulty_store().await;
        let operator = World::with_session(&(Arc::clone(&store) as Arc<dyn Store>)).await;
        let mine = operator.request(0);
        store.inject(Fault::Restart { failing_loads });
        let revoked = mine.revoke_others().await;
        assert_eq!(revoked.is_ok(), works, "{revoked:?}");
        if works {
            assert_eq!(revoked.expect("revoked"), Some(1));
            assert_eq!(world.stored(1).await.count, 0);
            assert_eq!(operator.stored(1).await.count, 1);
        }
    }
}
