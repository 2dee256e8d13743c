//! What becomes of a request's changes once its response is known.

use tokio::time::{Instant, sleep};
use tower_sessions::SessionStore;

use super::{
    Session, SessionError, SessionState,
    cookie::Cookie,
    envelope::{Envelope, jitter},
    id::SessionId,
    queue::{Loaded, RETRY_DEADLINE},
    request::{Creation, CreationGuard, Head, IdChange, Lookup, TestCookie},
    rollback,
};
use crate::store::Store;

impl<S: SessionState> Session<S> {
    /// Whether anything asked for the session, and what becomes of the cookie.
    pub(crate) fn outcome(&self) -> (bool, Cookie) {
        let request = self.state();
        (request.touched, request.cookie.clone())
    }

    /// The response begins: what needs the cookie comes too late from now on.
    pub(crate) fn close(&self) {
        self.state().head = Head::Sent;
    }

    /// What went wrong last.
    pub(crate) fn error(&self) -> Option<SessionError> {
        self.state().error.clone()
    }

    /// The number of the session's last write that this request knows of.
    pub(crate) fn revision(&self) -> Option<u64> {
        Some(self.state().latest()?.envelope.revision)
    }

    /// Saves what the response decides: the test cookie, a renewal where the config asks for it, and a new id where
    /// the request does. The layer calls it for each response that succeeds. A handler that must know the outcome
    /// before it responds calls it itself. The second call finds nothing left to do.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn commit(&self) -> Result<(), SessionError> {
        self.settle().await;
        if self.request.is_dry {
            return Ok(());
        }
        if self.state().test_cookie != TestCookie::Keep {
            // What few requests need stands in a box, so that the others' futures are small: they are moved.
            Box::pin(self.change(|_| (), false)).await?;
        }
        if self.shared().config.save_every_request {
            Box::pin(self.renew()).await?;
        }
        let id_change = self.state().id_change;
        if id_change != IdChange::Keep {
            let cycled = Box::pin(self.cycle_id_now(id_change)).await;
            self.noted(cycled)?;
            let mut request = self.state();
            request.id_change = IdChange::Keep;
            // What was changed went to the new id, which stays.
            request.changes.clear();
        }
        if self.shared().config.delete_empty {
            let deleted = Box::pin(self.delete_if_empty()).await;
            self.noted(deleted)?;
        }
        self.record_stats();
        Ok(())
    }

    /// Renews a session that this request has not written, unless it was written a moment ago.
    async fn renew(&self) -> Result<(), SessionError> {
        let (written, sent) = {
            let request = self.state();
            let written = matches!(request.cookie, Cookie::Set(..));
            (written, !request.candidates().is_empty())
        };
        if written || !sent {
            return Ok(());
        }
        let interval = self.shared().config.renew_interval;
        if interval > 0 {
            let Some(found) = self.find().await? else {
                return Ok(());
            };
            let age = found.loaded.envelope.seconds_since_write();
            if age < interval {
                return Ok(());
            }
        }
        self.change(|_| (), true).await
    }

    /// Ends a session in which this request's change has left nothing, unless another request has put something
    /// into it.
    async fn delete_if_empty(&self) -> Result<(), SessionError> {
        let is_empty = {
            let request = self.state();
            let written = matches!(request.cookie, Cookie::Set(..));
            let latest = request.latest();
            written && latest.is_some_and(|latest| latest.envelope.is_empty())
        };
        if !is_empty {
            return Ok(());
        }
        let Some(found) = self.find().await? else {
            return Ok(());
        };
        let give_up = Instant::now() + RETRY_DEADLINE;
        if found.loaded.envelope.is_empty() && self.delete_old(&found.loaded, give_up).await? {
            self.shared().deleted(found.id.hashed());
            let mut request = self.state();
            request.lookup = Lookup::Absent;
            request.creation = Creation::None;
            request.changes.clear();
            request.cookie = self.request.removal();
        }
        Ok(())
    }

    /// Records what this request did.
    fn record_stats(&self) {
        let shared = self.shared();
        let mut request = self.state();
        shared.recorder.add(&std::mem::take(&mut request.counted));
        if request.creation == Creation::Created {
            request.creation = Creation::None;
            shared.recorder.created.inc();
        }
        if let Some(stats) = &shared.stats_recorder
            && let (Cookie::Set(id, _), Some(latest)) = (&request.cookie, request.latest())
        {
            stats.seen(id.hashed(), latest.expires_at);
        }
    }

    /// Makes the new record before the old one goes. The old one goes only if nobody has changed it since: no moment
    /// without a session, and no change lost. A revocation of all sessions is written before they are looked for: it
    /// finds the new record, or is found here after that was made.
    async fn cycle_id_now(&self, id_change: IdChange) -> Result<(), SessionError> {
        let id = SessionId::generate()?;
        let shared = self.shared();
        let give_up = Instant::now() + RETRY_DEADLINE;
        while let Some(found) = self.find().await? {
            let old = found.loaded.record.id;
            let envelope = signed_in(Envelope::clone(&found.loaded.envelope), id_change);
            let mut record = envelope.record(id.hashed(), &shared.config)?;
            shared.store.create(&mut record).await?;
            if shared.is_revoked(&envelope).await? {
                shared.store.delete(&id.hashed()).await?;
                shared.delete(old).await?;
                continue;
            }
            if self.delete_old(&found.loaded, give_up).await? {
                shared.deleted(old);
                self.goes_on_as(id, envelope, record.expiry_date.unix_timestamp());
                return Ok(());
            }
            shared.store.delete(&id.hashed()).await?;
            if Instant::now() >= give_up {
                return Err(SessionError::Conflict);
            }
        }
        if matches!(id_change, IdChange::SignIn(..)) {
            let envelope = signed_in(Envelope::new(S::default()), id_change);
            let creation = CreationGuard::begin(self).await;
            self.create(envelope, creation).await?;
        }
        Ok(())
    }

    /// Deletes a record that nobody has changed since it was loaded, and returns whether it is gone. After a broken
    /// connection one that is gone was deleted by this.
    async fn delete_old(&self, old: &Loaded<S>, give_up: Instant) -> Result<bool, SessionError> {
        let store = &self.shared().store;
        let mut broke = false;
        loop {
            match store.compare_and_delete(&old.record).await {
                Ok(true) => return Ok(true),
                Ok(false) => return Ok(broke && store.load(&old.record.id).await?.is_none()),
                Err(error) if Instant::now() >= give_up => {
                    return Err(SessionError::from(error).indeterminate());
                }
                Err(_) => {
                    broke = true;
                    sleep(jitter()).await;
                }
            }
        }
    }

    /// Waits for the changes that are on their way, for whose outcome nothing waits any more.
    async fn settle(&self) {
        loop {
            let progress = self.request.progress.notified();
            if self.state().pending == 0 {
                return;
            }
            progress.await;
        }
    }

    /// Whether a failed response would have to take anything back.
    pub(crate) fn has_changes(&self) -> bool {
        let request = self.state();
        request.pending > 0 || request.creation == Creation::Created || !request.changes.is_empty()
    }

    /// The response fails: takes back what this request changed.
    pub(crate) async fn roll_back(&self) {
        self.settle().await;
        let (id, created, changes) = {
            let mut request = self.state();
            let changes = std::mem::take(&mut request.changes);
            let id = request.latest().map(|latest| latest.id.clone());
            (id, request.creation == Creation::Created, changes)
        };
        let Some(id) = id else { return };
        if !created && changes.is_empty() {
            return;
        }
        self.shared().recorder.rolled_back.inc();
        let undone = if created {
            self.shared().delete(id.hashed()).await
        } else {
            let undo = move |envelope: &mut Envelope<S>| rollback::take_back(&changes, envelope);
            self.change_found(id, undo, false).await.map(|_| ())
        };
        if let Err(error) = undone {
            tracing::error!(%error, "a failed request's change could not be taken back");
        }
    }
}

/// The session after a sign-in, where there is one.
fn signed_in<S: SessionState>(mut envelope: Envelope<S>, id_change: IdChange) -> Envelope<S> {
    if let IdChange::SignIn(realm, sign_in) = id_change {
        envelope.sign_ins.insert(realm.to_owned(), sign_in);
        envelope.trusted_by.insert(realm.to_owned());
        // A client that knows a password is no robot.
        envelope.confirmed = true;
    }
    envelope
}
