//! What becomes of a request's changes once its response is known.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tower_sessions::{SessionStore, session::Id};

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

/// What became of the deletion of a record that nobody was to have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deleted {
    Yes,
    /// It is gone. The connection broke before this was known, so another one may have deleted it.
    Perhaps,
    /// It is another record now, or none.
    No,
}

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
        let id_change = self.state().id_change.clone();
        if id_change != IdChange::Keep {
            let cycled = Box::pin(self.cycle_id_now(&id_change)).await;
            self.noted(cycled)?;
            if let IdChange::SignIn(realm, sign_in) = &id_change {
                self.end_surplus(realm, sign_in.user()).await;
            }
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
        if found.loaded.envelope.is_empty()
            && self.delete_old(&found.loaded, give_up).await? != Deleted::No
        {
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
    /// finds the new record, or is found here after that was made. The sessions of a user are ended until the index
    /// of users has none: it has the new record before the old one goes.
    async fn cycle_id_now(&self, id_change: &IdChange) -> Result<(), SessionError> {
        let id = SessionId::generate()?;
        let shared = self.shared();
        let give_up = Instant::now() + RETRY_DEADLINE;
        while let Some(found) = self.find().await? {
            let old = found.loaded.record.id;
            let before = &found.loaded.envelope;
            let envelope = self.next_envelope(before, id_change, Some(old)).await?;
            let mut record = envelope.record(id.hashed(), &shared.config)?;
            let expires_at = record.expiry_date.unix_timestamp();
            let entries = envelope.user_entries(id.hashed(), expires_at);
            shared.store.create(&mut record).await?;
            let (indexed, is_revoked) =
                tokio::join!(shared.index_users(&entries), shared.is_revoked(&envelope));
            indexed?;
            if is_revoked? {
                shared.end(id.hashed(), &envelope).await?;
                shared.end(old, before).await?;
                continue;
            }
            match self.delete_old(&found.loaded, give_up).await? {
                Deleted::No => shared.end(id.hashed(), &envelope).await?,
                // Perhaps the user has ended it.
                Deleted::Perhaps if shared.is_ending(&envelope).await? => {
                    shared.end(id.hashed(), &envelope).await?;
                }
                Deleted::Yes | Deleted::Perhaps => {
                    shared.deleted(old);
                    shared.unindex_users(&before.user_entries(old, 0)).await;
                    self.goes_on_as(id, envelope, expires_at);
                    return Ok(());
                }
            }
            if Instant::now() >= give_up {
                return Err(SessionError::Conflict);
            }
        }
        if matches!(id_change, IdChange::SignIn(..)) {
            let envelope = Envelope::new(S::default());
            let envelope = self.next_envelope(&envelope, id_change, None).await?;
            let creation = CreationGuard::begin(self).await;
            self.create(envelope, creation).await?;
        }
        Ok(())
    }

    /// The session after its id has changed from `old`.
    async fn next_envelope(
        &self,
        before: &Envelope<S>,
        id_change: &IdChange,
        old: Option<Id>,
    ) -> Result<Envelope<S>, SessionError> {
        let mut envelope = before.clone();
        if let Some(old) = old {
            for sign_in in envelope.sign_ins.values_mut() {
                sign_in.leaves(&old);
            }
        }
        if let IdChange::SignIn(realm, sign_in) = id_change {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            let mut user = sign_in.begin(getrandom::u64()?, now, self.sign_in_client());
            if self.shared().store.users().is_none() {
                let generation = self.shared().generation_or_new(realm, user.user()).await?;
                user.generation = Some(generation);
            }
            envelope.sign_ins.insert((*realm).to_owned(), user);
            envelope.trusted_by.insert((*realm).to_owned());
            // A client that knows a password is no robot.
            envelope.confirmed = true;
        }
        Ok(envelope)
    }

    /// Deletes a record that nobody has changed since it was loaded.
    async fn delete_old(&self, old: &Loaded<S>, give_up: Instant) -> Result<Deleted, SessionError> {
        let store = &self.shared().store;
        let mut broke = false;
        loop {
            match store.compare_and_delete(&old.record).await {
                Ok(true) => return Ok(Deleted::Yes),
                Ok(false) if broke && store.load(&old.record.id).await?.is_none() => {
                    return Ok(Deleted::Perhaps);
                }
                Ok(false) => return Ok(Deleted::No),
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
        let (latest, created, changes) = {
            let mut request = self.state();
            let changes = std::mem::take(&mut request.changes);
            let latest = request.latest();
            let latest = latest.map(|latest| (latest.id.clone(), Arc::clone(&latest.envelope)));
            (latest, request.creation == Creation::Created, changes)
        };
        let Some((id, envelope)) = latest else { return };
        if !created && changes.is_empty() {
            return;
        }
        self.shared().recorder.rolled_back.inc();
        let undone = if created {
            self.shared().end(id.hashed(), &envelope).await
        } else {
            let undo = move |envelope: &mut Envelope<S>| rollback::take_back(&changes, envelope);
            self.change_found(id, undo, false).await.map(|_| ())
        };
        if let Err(error) = undone {
            tracing::error!(%error, "a failed request's change could not be taken back");
        }
    }
}
