//! How a request finds its session and changes it.

use std::sync::Arc;

use tokio::sync::oneshot;
use tower_sessions::SessionStore;

use super::{
    Session, SessionError, SessionState,
    cookie::Cookie,
    envelope::Envelope,
    id::SessionId,
    queue::{Loaded, Outcome, UpdateFn},
    request::{Creation, CreationGuard, Head, Latest, Lookup, Pending, TestCookie},
    rollback,
};

/// A session that is in the store.
pub struct Found<S> {
    pub id: SessionId,
    pub loaded: Loaded<S>,
}

impl<S: SessionState> Session<S> {
    /// The first of the request's ids that the store knows. A foreign cookie of the same name can't hide the
    /// client's own.
    pub(crate) async fn find(&self) -> Result<Option<Found<S>>, SessionError> {
        let candidates = {
            let mut request = self.state();
            request.touched = true;
            request.candidates()
        };
        for id in candidates {
            let loaded = self.shared().queue.load(id.hashed()).await;
            if let Some(loaded) = self.noted(loaded)? {
                self.state().lookup = Lookup::Found(Box::new(Latest {
                    id: id.clone(),
                    envelope: Arc::clone(&loaded.envelope),
                    expires_at: loaded.record.expiry_date.unix_timestamp(),
                }));
                return Ok(Some(Found { id, loaded }));
            }
        }
        self.request.not_found();
        Ok(None)
    }

    /// Changes what is stored, in the session or in a new one. `renews`: even where nothing changes.
    pub(crate) async fn change<T, F>(&self, change: F, renews: bool) -> Result<T, SessionError>
    where
        F: Fn(&mut Envelope<S>) -> T + Send + Sync + 'static,
        T: Send + 'static,
    {
        if self.request.is_dry {
            return self.change_a_copy(change).await;
        }
        let change = Arc::new(self.with_test_cookie(change));
        loop {
            let (candidates, confirms) = {
                let mut request = self.state();
                request.touched = true;
                let confirms = request.creation != Creation::Created;
                (request.candidates(), confirms)
            };
            for id in &candidates {
                let function = {
                    let change = Arc::clone(&change);
                    move |envelope: &mut Envelope<S>| {
                        // A client whose cookie came back is no robot that keeps none.
                        envelope.confirmed |= confirms;
                        change(envelope)
                    }
                };
                if let Some(output) = self.change_found(id.clone(), function, renews).await? {
                    return Ok(output);
                }
            }
            let creation = CreationGuard::begin(self).await;
            // Another change of this request may have made the session, or may have changed its id.
            let has_other = {
                let now = self.state().candidates();
                now.iter().any(|id| !candidates.contains(id))
            };
            if !has_other {
                self.request.not_found();
                return Box::pin(self.change_new(change.as_ref(), creation)).await;
            }
        }
    }

    /// What a change returns that is not to be saved.
    async fn change_a_copy<T>(
        &self,
        change: impl Fn(&mut Envelope<S>) -> T,
    ) -> Result<T, SessionError> {
        let found = self.find().await?;
        let mut copy = match found {
            Some(found) => Arc::unwrap_or_clone(found.loaded.envelope),
            None => Envelope::new(S::default()),
        };
        Ok(change(&mut copy))
    }

    /// The change, and what this request has decided about the test cookie before.
    fn with_test_cookie<T, F>(&self, change: F) -> impl Fn(&mut Envelope<S>) -> T + use<S, T, F>
    where
        F: Fn(&mut Envelope<S>) -> T,
    {
        let decision = std::mem::replace(&mut self.state().test_cookie, TestCookie::Keep);
        let number = self.request.number;
        move |envelope| {
            match decision {
                TestCookie::Keep => {}
                TestCookie::Set => envelope.test_mark = Some(number),
                TestCookie::Delete => envelope.test_mark = None,
            }
            change(envelope)
        }
    }

    /// `None`: there is no session of this id.
    pub(crate) async fn change_found<T: Send + 'static>(
        &self,
        id: SessionId,
        function: impl Fn(&mut Envelope<S>) -> T + Send + 'static,
        renews: bool,
    ) -> Result<Option<T>, SessionError> {
        let (done, finished) = oneshot::channel();
        let (pending, hashed) = (Pending::of(self), id.hashed());
        let change = UpdateFn {
            function,
            renews,
            output: None,
            done: move |finished: Result<(Outcome<S>, Option<T>), SessionError>| {
                let recorded = finished.map(|(outcome, output)| {
                    let is_there = pending.0.record(id, outcome);
                    output.filter(|_| is_there)
                });
                drop(pending);
                // Nothing waits any more where the handler was dropped.
                let _ = done.send(recorded);
            },
        };
        let queue = &self.shared().queue;
        let queued = queue.submit(hashed, Box::new(change), finished);
        self.noted(queued.await.unwrap_or(Err(SessionError::Panicked)))
    }

    /// Notes what became of a change, and returns whether the session is there.
    fn record(&self, id: SessionId, outcome: Outcome<S>) -> bool {
        let config = &self.shared().config;
        let mut request = self.state();
        match outcome {
            Outcome::Done {
                before,
                after,
                saved,
                expires_at,
            } => {
                request.lookup = Lookup::Found(Box::new(Latest {
                    id: id.clone(),
                    envelope: Arc::clone(&after),
                    expires_at,
                }));
                if saved {
                    request.counted.add(&before.state, &after.state);
                    let lifetime = after.lifetime(config);
                    request.cookie = Cookie::Set(id, lifetime.cookie);
                    request.changes.push(rollback::Change { before, after });
                }
                true
            }
            Outcome::Gone { ended } => {
                let was_found = request.latest().is_some();
                request.was_replaced |= ended || was_found;
                false
            }
        }
    }

    async fn change_new<T>(
        &self,
        change: &impl Fn(&mut Envelope<S>) -> T,
        creation: CreationGuard<S>,
    ) -> Result<T, SessionError> {
        let empty = Envelope::new(S::default());
        let mut envelope = empty.clone();
        let output = change(&mut envelope);
        if envelope == empty {
            return Ok(output);
        }
        if self.state().head == Head::Sent {
            return self.noted(Err(SessionError::HeadSent));
        }
        self.noted(self.admit())?;
        let state = envelope.state.clone();
        let created = self.create(envelope, creation).await;
        self.noted(created)?;
        self.state().counted.add(&S::default(), &state);
        Ok(output)
    }

    /// Whether the client's address may make one more session. Clients of no known address may.
    fn admit(&self) -> Result<(), SessionError> {
        let Some(address) = self.request.client.address else {
            return Ok(());
        };
        let shared = self.shared();
        shared.limiter.admit(address).map_err(|seconds| {
            shared.recorder.rate_limited.inc();
            SessionError::RateLimited { seconds }
        })
    }

    /// Stores a new session, in a task of its own: dropped half done, nobody would know whether it is there.
    pub(crate) async fn create(
        &self,
        envelope: Envelope<S>,
        creation: CreationGuard<S>,
    ) -> Result<(), SessionError> {
        let pending = Pending::of(self);
        let creating = tokio::spawn(async move {
            let created = pending.0.create_now(envelope).await;
            match created {
                Ok(()) => creation.created(),
                Err(_) => drop(creation),
            }
            created
        });
        creating.await.unwrap_or(Err(SessionError::Panicked))
    }

    /// Stores a new session under an id that nobody knew before, which the cookie then carries.
    async fn create_now(&self, envelope: Envelope<S>) -> Result<(), SessionError> {
        let id = SessionId::generate()?;
        let config = &self.shared().config;
        let mut record = envelope.record(id.hashed(), config)?;
        self.shared().store.create(&mut record).await?;
        let expires_at = record.expiry_date.unix_timestamp();
        let entries = envelope.user_entries(id.hashed(), expires_at);
        self.shared().index_users(&entries).await?;
        self.goes_on_as(id, envelope, expires_at);
        Ok(())
    }

    /// The session is the one of this id from now on.
    pub(crate) fn goes_on_as(&self, id: SessionId, envelope: Envelope<S>, expires_at: i64) {
        let lifetime = envelope.lifetime(&self.shared().config);
        let mut request = self.state();
        request.cookie = Cookie::Set(id.clone(), lifetime.cookie);
        request.lookup = Lookup::Found(Box::new(Latest {
            id,
            envelope: Arc::new(envelope),
            expires_at,
        }));
    }
}
