//! The end of a request: its changes are committed if the response succeeds, and rolled back if it fails.

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

/// The result of a deletion on the condition that the record has not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deleted {
    Yes,
    /// The record is gone, but the connection broke before the store confirmed it. Another request may have deleted
    /// it.
    Maybe,
    /// The record has changed, or had already gone.
    No,
}

impl<S: SessionState> Session<S> {
    /// Whether the handler has used the session, and how the response changes the cookie.
    pub(crate) fn outcome(&self) -> (bool, Cookie) {
        let request = self.state();
        (request.accessed, request.cookie.clone())
    }

    /// Marks the response as begun. From now on the session can't set a cookie.
    pub(crate) fn close(&self) {
        self.state().head = Head::Sent;
    }

    /// The last error.
    pub(crate) fn error(&self) -> Option<SessionError> {
        self.state().error.clone()
    }

    /// The session's revision, as this request last saw it.
    pub(crate) fn revision(&self) -> Option<u64> {
        Some(self.state().latest()?.envelope.revision)
    }

    /// Saves everything that waits until the response succeeds: the test cookie, a new id, and what
    /// [`Config::save_every_request`](crate::Config::save_every_request) and
    /// [`Config::delete_empty`](crate::Config::delete_empty) ask for.
    ///
    /// The layer calls it for every response that succeeds. A handler calls it only if it must know the result before
    /// it responds. A second call does nothing.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn commit(&self) -> Result<(), SessionError> {
        self.wait_for_pending().await;
        if self.request.is_dry {
            return Ok(());
        }
        if self.state().test_cookie != TestCookie::Keep {
            // Boxed, as are the branches below, to keep this future small: few requests take them.
            Box::pin(self.change(|_| (), false)).await?;
        }
        if self.shared().config.save_every_request {
            Box::pin(self.touch_if_due()).await?;
        }
        let id_change = self.state().id_change.clone();
        if id_change != IdChange::Keep {
            let cycled = Box::pin(self.cycle_id_now(&id_change)).await;
            self.record_error(cycled)?;
            if let IdChange::SignIn(realm, sign_in) = &id_change {
                self.end_surplus(realm, sign_in.user()).await;
            }
            let mut request = self.state();
            request.id_change = IdChange::Keep;
            // The changes are part of the new record, and an id change is not rolled back.
            request.changes.clear();
        }
        if self.shared().config.delete_empty {
            let deleted = Box::pin(self.delete_if_empty()).await;
            self.record_error(deleted)?;
        }
        self.record_stats();
        Ok(())
    }

    /// Extends the session's lifetime, unless this request has written it or `renew_interval` has not passed yet.
    async fn touch_if_due(&self) -> Result<(), SessionError> {
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

    /// Deletes a session that this request has left empty, unless another request has written to it since.
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
        let deadline = Instant::now() + RETRY_DEADLINE;
        if found.loaded.envelope.is_empty()
            && self.delete_if_unchanged(&found.loaded, deadline).await? != Deleted::No
        {
            self.shared().on_deleted(found.id.hashed());
            let mut request = self.state();
            request.lookup = Lookup::Absent;
            request.creation = Creation::None;
            request.changes.clear();
            request.cookie = self.request.removal();
        }
        Ok(())
    }

    /// Adds this request to the metrics and the statistics.
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

    /// Moves the session to a new id: creates the new record first, then deletes the old one.
    ///
    /// The old record is deleted only if it has not changed since it was loaded. So there is always a session, and no
    /// change is lost.
    ///
    /// No session escapes a revocation by changing its id:
    ///
    /// - A revocation of all sessions is announced before it scans them. Either the scan finds the new record, or
    ///   this method finds the announcement after it has created the record.
    /// - Ending the sessions of a user repeats until the index of users has none left. The index has the new record
    ///   before the old one is deleted.
    async fn cycle_id_now(&self, id_change: &IdChange) -> Result<(), SessionError> {
        let id = SessionId::generate()?;
        let shared = self.shared();
        let deadline = Instant::now() + RETRY_DEADLINE;
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
            match self.delete_if_unchanged(&found.loaded, deadline).await? {
                Deleted::No => shared.end(id.hashed(), &envelope).await?,
                // The user may have ended the session.
                Deleted::Maybe if shared.is_ending(&envelope).await? => {
                    shared.end(id.hashed(), &envelope).await?;
                }
                Deleted::Yes | Deleted::Maybe => {
                    shared.on_deleted(old);
                    shared.unindex_users(&before.user_entries(old, 0)).await;
                    self.switch_to(id, envelope, expires_at);
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
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

    /// The session as it is stored after `id_change`. `old`: the id that it leaves, if it had one.
    async fn next_envelope(
        &self,
        before: &Envelope<S>,
        id_change: &IdChange,
        old: Option<Id>,
    ) -> Result<Envelope<S>, SessionError> {
        let mut envelope = before.clone();
        if let Some(old) = old {
            for sign_in in envelope.sign_ins.values_mut() {
                sign_in.add_former_id(&old);
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
            // A client that knows a password is not a bot.
            envelope.confirmed = true;
        }
        Ok(envelope)
    }

    /// Deletes a record on the condition that it has not changed since it was loaded.
    async fn delete_if_unchanged(
        &self,
        old: &Loaded<S>,
        deadline: Instant,
    ) -> Result<Deleted, SessionError> {
        let store = &self.shared().store;
        let mut has_failed = false;
        loop {
            match store.compare_and_delete(&old.record).await {
                Ok(true) => return Ok(Deleted::Yes),
                Ok(false) if has_failed && store.load(&old.record.id).await?.is_none() => {
                    return Ok(Deleted::Maybe);
                }
                Ok(false) => return Ok(Deleted::No),
                Err(error) if Instant::now() >= deadline => {
                    return Err(SessionError::from(error).indeterminate());
                }
                Err(_) => {
                    has_failed = true;
                    sleep(jitter()).await;
                }
            }
        }
    }

    /// Waits for changes that still run although the handler no longer waits for them.
    async fn wait_for_pending(&self) {
        loop {
            let progress = self.request.progress.notified();
            if self.state().pending == 0 {
                return;
            }
            progress.await;
        }
    }

    /// Whether the request has anything to roll back.
    pub(crate) fn has_changes(&self) -> bool {
        let request = self.state();
        request.pending > 0 || request.creation == Creation::Created || !request.changes.is_empty()
    }

    /// Rolls back this request's changes, because its response failed.
    pub(crate) async fn roll_back(&self) {
        self.wait_for_pending().await;
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
        let rolled_back = if created {
            self.shared().end(id.hashed(), &envelope).await
        } else {
            let revert = move |envelope: &mut Envelope<S>| rollback::revert(&changes, envelope);
            self.change_found(id, revert, false).await.map(|_| ())
        };
        if let Err(error) = rolled_back {
            tracing::error!(%error, "a failed request could not be rolled back");
        }
    }
}
