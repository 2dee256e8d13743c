//! Random interleavings of what a visitor can do, on two servers that share a store, against a
//! model that knows nothing of either.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::{cookie::Sent, settings::StoreUrl, *};

/// What one browser does next, on the server of that number.
#[derive(Clone, Debug)]
enum Step {
    Visit(usize),
    /// So many visits at once, spread over both servers.
    VisitsAtOnce(u64),
    Reset(usize),
    Prefer(usize, u8, u8),
    /// Preferences of different names at once, spread over both servers.
    PreferencesAtOnce(u8),
    Rotate(usize),
    Flush(usize),
    /// Visits, and then the answer fails.
    FailedVisit(usize),
    /// Asks for a new id, and then the answer fails.
    FailedRotation(usize),
    Read(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let server = 0..2_usize;
    let step = prop_oneof![
        4 => server.clone().prop_map(Step::Visit),
        2 => (1..12_u64).prop_map(Step::VisitsAtOnce),
        1 => server.clone().prop_map(Step::Reset),
        2 => (server.clone(), 0..4_u8, any::<u8>()).prop_map(|(server, name, value)| Step::Prefer(server, name, value)),
        1 => (1..8_u8).prop_map(Step::PreferencesAtOnce),
        2 => server.clone().prop_map(Step::Rotate),
        1 => server.clone().prop_map(Step::Flush),
        2 => server.clone().prop_map(Step::FailedVisit),
        1 => server.clone().prop_map(Step::FailedRotation),
        2 => server.prop_map(Step::Read),
    ];
    prop::collection::vec(step, 1..40)
}

/// A browser with one cookie, and two servers.
struct World {
    servers: [Arc<Sessions>; 2],
    cookie: Option<SessionId>,
}

/// What the session should hold.
#[derive(Debug, Default, PartialEq)]
struct Model {
    visits: u64,
    preferences: BTreeMap<String, Value>,
}

impl World {
    async fn new() -> Self {
        let store = store::open(&StoreUrl::Memory, 0).await.expect("memory");
        let server = || {
            let settings = SessionSettings::for_tests();
            Arc::new(Sessions::new(settings, Arc::clone(&store)).expect("random numbers"))
        };
        Self {
            servers: [server(), server()],
            cookie: None,
        }
    }

    /// A request that brings the cookie.
    fn request(&self, server: usize) -> Session {
        let sent = Sent {
            any: self.cookie.is_some(),
            ids: self.cookie.iter().cloned().collect(),
        };
        let sessions = &self.servers[server % 2];
        let caller = Caller {
            number: sessions.next_request(),
            address: IpAddr::from([192, 0, 2, 1]),
            own_machine: false,
        };
        Session::new(Arc::clone(sessions), sent, caller)
    }

    /// The answer succeeds, and the browser obeys its cookie.
    async fn succeed(&mut self, session: &Session) {
        session.commit().await.expect("committed");
        match session.outcome().1 {
            Cookie::Keep => {}
            Cookie::Set(id, _) => self.cookie = Some(id),
            Cookie::Remove => self.cookie = None,
        }
    }

    async fn visits_at_once(&mut self, visits: u64) -> Vec<u64> {
        // The first makes the session, where there is none: the others need its cookie.
        let session = self.request(0);
        let mut numbers = vec![visit(&session).await];
        self.succeed(&session).await;
        let others: Vec<_> = (1..visits as usize)
            .map(|server| {
                let session = self.request(server);
                tokio::spawn(async move { visit(&session).await })
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
            Step::Visit(server) => {
                let session = self.request(*server);
                model.visits += 1;
                assert_eq!(visit(&session).await, model.visits);
                self.succeed(&session).await;
            }
            Step::VisitsAtOnce(visits) => {
                let expected: Vec<_> = (model.visits + 1..=model.visits + visits).collect();
                assert_eq!(self.visits_at_once(*visits).await, expected);
                model.visits += visits;
            }
            Step::Reset(server) => {
                let session = self.request(*server);
                session.update(Visitor::reset).await.expect("saved");
                self.succeed(&session).await;
                model.visits = 0;
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
            Step::Rotate(server) => {
                let (session, old) = (self.request(*server), self.cookie.clone());
                session.rotate();
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
            Step::FailedVisit(server) => {
                let session = self.request(*server);
                assert_eq!(visit(&session).await, model.visits + 1);
                session.roll_back().await;
            }
            Step::FailedRotation(server) => {
                let session = self.request(*server);
                session.rotate();
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
        let visitor = self.request(server).read().await.expect("read");
        Model {
            visits: visitor.visits,
            preferences: visitor.other,
        }
    }
}

impl Model {
    fn prefer(&mut self, name: u8, value: u8) {
        self.preferences
            .insert(name.to_string(), value.to_string().into());
    }
}

async fn visit(session: &Session) -> u64 {
    let request = session.request();
    session
        .update(move |visitor| visitor.visit(request))
        .await
        .expect("saved")
}

async fn prefer(session: &Session, name: u8, value: u8) {
    session
        .update(move |visitor| {
            let value = value.to_string().into();
            visitor.other.insert(name.to_string(), value);
        })
        .await
        .expect("saved");
}

proptest! {
    #[test]
    fn whatever_happens_both_servers_hold_what_the_model_holds(steps in steps()) {
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
