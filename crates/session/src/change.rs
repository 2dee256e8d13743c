//! How a request finds, changes and creates its session.

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

/// A session that the store has.
pub struct Found<S> {
    pub id: SessionId,
    pub loaded: Loaded<S>,
}

impl<S: SessionState> Session<S> {
    /// Loads the session of the first of the request's ids that the store has. The client may send several cookies of
    /// the same name, so another application's cookie can't hide this one's.
    pub(crate) async fn find(&self) -> Result<Option<Found<S>>, SessionError> {
        let candidates = {
            let mut request = self.state();
            request.accessed = true;
            request.candidates()
        };
        for id in candidates {
            let loaded = self.shared().queue.load(id.hashed()).await;
            if let Some(loaded) = self.record_error(loaded)? {
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

    /// Changes the session, or creates one. `touch`: saves an existing session even if nothing changes, to extend its
    /// lifetime.
    pub(crate) async fn change<T, F>(&self, change: F, touch: bool) -> Result<T, SessionError>
    where
        F: Fn(&mut Envelope<S>) -> T + Send + Sync + 'static,
        T: Send + 'static,
    {
        if self.request.is_dry {
            return self.change_copy(change).await;
        }
        let change = Arc::new(self.with_test_cookie(change));
        loop {
            let (candidates, confirms) = {
                let mut request = self.state();
                request.accessed = true;
                let confirms = request.creation != Creation::Created;
                (request.candidates(), confirms)
            };
            for id in &candidates {
                let function = {
                    let change = Arc::clone(&change);
                    move |envelope: &mut Envelope<S>| {
                        // The client has sent its cookie back, so it is not a bot without cookies.
                        envelope.confirmed |= confirms;
                        change(envelope)
                    }
                };
                if let Some(output) = self.change_found(id.clone(), function, touch).await? {
                    return Ok(output);
                }
            }
            let creation = CreationGuard::begin(self).await;
            // While this one waited, another change of the request may have created the session or changed its id.
            let has_new_candidate = {
                let now = self.state().candidates();
                now.iter().any(|id| !candidates.contains(id))
            };
            if !has_new_candidate {
                self.request.not_found();
                return Box::pin(self.change_new(change.as_ref(), creation)).await;
            }
        }
    }

    /// Runs a change on a copy of the session, which is not saved.
    async fn change_copy<T>(
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

    /// Adds the request's pending change of the test cookie to a change.
    fn with_test_cookie<T, F>(&self, change: F) -> impl Fn(&mut Envelope<S>) -> T + use<S, T, F>
    where
        F: Fn(&mut Envelope<S>) -> T,
    {
        let test_cookie = std::mem::replace(&mut self.state().test_cookie, TestCookie::Keep);
        let number = self.request.number;
        move |envelope| {
            match test_cookie {
                TestCookie::Keep => {}
                TestCookie::Set => envelope.test_mark = Some(number),
                TestCookie::Delete => envelope.test_mark = None,
            }
            change(envelope)
        }
    }

    /// Changes the session of this id, and waits for the result. `None`: there is no such session.
    pub(crate) async fn change_found<T: Send + 'static>(
        &self,
        id: SessionId,
        function: impl Fn(&mut Envelope<S>) -> T + Send + 'static,
        touch: bool,
    ) -> Result<Option<T>, SessionError> {
        let (done, finished) = oneshot::channel();
        let (pending, hashed) = (Pending::of(self), id.hashed());
        let change = UpdateFn {
            function,
            touch,
            output: None,
            done: move |finished: Result<(Outcome<S>, Option<T>), SessionError>| {
                let recorded = finished.map(|(outcome, output)| {
                    let exists = pending.0.record(id, outcome);
                    output.filter(|_| exists)
                });
                drop(pending);
                // Nobody receives it if the handler was dropped.
                let _ = done.send(recorded);
            },
        };
        let queue = &self.shared().queue;
        let queued = queue.submit(hashed, Box::new(change), finished);
        self.record_error(queued.await.unwrap_or(Err(SessionError::Panicked)))
    }

    /// Records the outcome of a change, and returns whether the session exists.
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

    /// Runs a change on a new session, and stores it unless it is still empty.
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
            return self.record_error(Err(SessionError::HeadersSent));
        }
        self.record_error(self.admit())?;
        let state = envelope.state.clone();
        let created = self.create(envelope, creation).await;
        self.record_error(created)?;
        self.state().counted.add(&S::default(), &state);
        Ok(output)
    }

    /// Applies the limit on new sessions to the client's address. A client without a known address is always admitted.
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

    /// Stores a new session. This runs in a task of its own: if it were dropped halfway, nothing would know whether
    /// the session exists.
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

    /// Stores a new session under a new id, never one that the client sent, and sets the cookie.
    async fn create_now(&self, envelope: Envelope<S>) -> Result<(), SessionError> {
        let id = SessionId::generate()?;
        let config = &self.shared().config;
        let mut record = envelope.record(id.hashed(), config)?;
        self.shared().store.create(&mut record).await?;
        let expires_at = record.expiry_date.unix_timestamp();
        let entries = envelope.user_entries(id.hashed(), expires_at);
        self.shared().index_users(&entries).await?;
        self.switch_to(id, envelope, expires_at);
        Ok(())
    }

    /// Makes this the request's session, and sets the cookie to its id.
    pub(crate) fn switch_to(&self, id: SessionId, envelope: Envelope<S>, expires_at: i64) {
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
