//! The handle of one request's session.

use std::{
    fmt,
    sync::{Arc, MutexGuard},
};

use http::HeaderValue;
use time::OffsetDateTime;
use tower_sessions::session::Id;

use super::{
    Expiry, Info, Message, SessionError, SessionState, Snapshot, Subscription,
    auth::{Ended, SignIn, SignInClient, SignInStatus, SignedInUser},
    envelope::Envelope,
    expiry::now,
    flash, id,
    layer::ClientInfo,
    login_token,
    manager::Shared,
    request::{
        Creation, CreationGuard, IdChange, Lookup, RequestSession, RequestState, TestCookie,
    },
    store::Store,
};

/// One request's session. Clones share the same state.
///
/// An axum handler takes it as an argument; a Leptos server function gets it by
/// [`use_session`](crate::use_session) (feature `leptos`); any other service inside the layer finds it in the
/// request's extensions.
///
/// Requests that must not change anything don't: for HEAD and OPTIONS, and for prefetches (`Sec-Purpose` or
/// `Purpose: prefetch`), a change runs on a copy of the state, returns what it returns, and is not saved.
pub struct Session<S: SessionState> {
    pub(crate) request: Arc<RequestSession<S>>,
}

impl<S: SessionState> Clone for Session<S> {
    fn clone(&self) -> Self {
        Self {
            request: Arc::clone(&self.request),
        }
    }
}

impl<S: SessionState> fmt::Debug for Session<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Session(…)")
    }
}

impl<S: SessionState> Session<S> {
    pub(crate) fn new(request: RequestSession<S>) -> Self {
        Self {
            request: Arc::new(request),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, RequestState<S>> {
        self.request.state()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<S>> {
        &self.request.sessions
    }

    /// The state as stored; the default where there is no session. Stores nothing, and is no activity: the session
    /// lives no longer for it.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn read(&self) -> Result<S, SessionError> {
        let found = self.find().await?;
        Ok(found
            .map(|found| found.loaded.envelope.state.clone())
            .unwrap_or_default())
    }

    /// Changes the state and returns what `change` returned. A change that changes nothing is not stored, and makes
    /// no session.
    ///
    /// `change` may run more than once, on newer states, so it must depend on the state alone.
    ///
    /// The change goes on where this is dropped or held half done. If the response fails, it is taken back all the
    /// same.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tally_session::{Session, SessionError, SessionState};
    /// # #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
    /// # struct Cart { items: Vec<String> }
    /// # impl SessionState for Cart {}
    /// async fn add(session: Session<Cart>) -> Result<String, SessionError> {
    ///     let items = session.update(|cart| {
    ///         cart.items.push("tea".to_owned());
    ///         cart.items.len()
    ///     });
    ///     Ok(format!("{} items", items.await?))
    /// }
    /// ```
    ///
    /// # Errors
    /// When the change could not be saved. Then it was not saved, or ([`SessionError::Indeterminate`]) nobody can
    /// know.
    pub async fn update<T, F>(&self, change: F) -> Result<T, SessionError>
    where
        F: Fn(&mut S) -> T + Send + Sync + 'static,
        T: Send + 'static,
    {
        self.change(move |envelope| change(&mut envelope.state), false)
            .await
    }

    /// The session's own expiry; `None`: as the config says.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn expiry(&self) -> Result<Option<Expiry>, SessionError> {
        let found = self.find().await?;
        Ok(found.and_then(|found| found.loaded.envelope.expiry))
    }

    /// Gives the session its own expiry, kept with it; `None`: back to the config. Makes a session where there is
    /// none.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn set_expiry(&self, expiry: Option<Expiry>) -> Result<(), SessionError> {
        self.change(move |envelope| envelope.expiry = expiry, false)
            .await
    }

    /// When the session ends if nothing writes it; `None`: there is no session.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn expires_at(&self) -> Result<Option<OffsetDateTime>, SessionError> {
        let found = self.find().await?;
        Ok(found.map(|found| found.loaded.record.expiry_date))
    }

    /// Lets the session live as long again as after a change. Makes none where there is none.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn touch(&self) -> Result<(), SessionError> {
        self.change(|_| (), true).await
    }

    /// Marks the session, to find out whether the client keeps cookies. The mark goes with the next
    /// [`Session::update`] of this request, or is written when the response is known. Makes a session where there
    /// is none.
    pub fn set_test_cookie(&self) {
        self.decide_test_cookie(TestCookie::Set);
    }

    /// Removes the mark, in the same way. None there is no error.
    pub fn delete_test_cookie(&self) {
        self.decide_test_cookie(TestCookie::Delete);
    }

    fn decide_test_cookie(&self, decision: TestCookie) {
        if let Some(mut request) = self.request.before_head("the test cookie is set") {
            request.test_cookie = decision;
        }
    }

    /// Whether the mark of an earlier request has come back with the cookie. Never true in the request that set
    /// it.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn test_cookie_worked(&self) -> Result<bool, SessionError> {
        let found = self.find().await?;
        let mark = found.and_then(|found| found.loaded.envelope.test_mark);
        Ok(mark.is_some_and(|marked_by| marked_by != self.request.number))
    }

    /// Gives the session a new id with the same data, once the response succeeds. The old id is dead then. For
    /// whenever a client's rights change; signing in and out do it by themselves.
    pub fn cycle_id(&self) {
        if let Some(mut request) = self.request.before_head("the id is to change")
            && request.id_change == IdChange::Keep
        {
            request.id_change = IdChange::Cycle;
        }
    }

    /// Signs in to a realm: once the response succeeds, the session goes on under a new id and is signed in there.
    /// The old id is never signed in, so it is worth nothing to an attacker who knows it. If the response fails, the
    /// old id works as before. Makes a session where there is none.
    ///
    /// What a guest's session holds stays. What the session of another user of the realm holds does not: the state is
    /// the default one from here on.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn sign_in(&self, realm: &'static str, sign_in: SignIn) -> Result<(), SessionError> {
        let found = self.find().await?;
        let is_anothers = found.is_some_and(|found| {
            let others = found.loaded.envelope.sign_ins.get(realm);
            others.is_some_and(|other| other.user() != sign_in.user())
        });
        if is_anothers {
            self.change(Envelope::clear, false).await?;
        }
        if let Some(mut request) = self.request.before_head("a sign-in is to begin") {
            request.id_change = IdChange::SignIn(realm, sign_in);
        }
        Ok(())
    }

    /// Signs out of a realm, under a new id. What else the session holds stays.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn sign_out(&self, realm: &'static str) -> Result<(), SessionError> {
        self.end_sign_in(realm).await?;
        self.cycle_id();
        Ok(())
    }

    /// Forgets a sign-in that holds no longer; `false`: that has been done already.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn end_sign_in(&self, realm: &'static str) -> Result<bool, SessionError> {
        let before = self.find().await?;
        let end = move |envelope: &mut Envelope<S>| envelope.sign_ins.remove(realm).is_some();
        let ended = self.change(end, false).await?;
        if let Some(before) = before.filter(|_| ended && !self.request.is_dry) {
            let mut entries = before.loaded.envelope.user_entries(before.id.hashed(), 0);
            entries.retain(|entry| entry.realm == realm);
            self.shared().unindex_users(&entries).await;
        }
        Ok(ended)
    }

    /// The user who is signed in to a realm, and records that the sign-in is used; `None`: nobody is, or the sign-in
    /// has ended.
    ///
    /// Whether the user still has the password is for the application to ask: [`SignedInUser::rests_on`].
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn signed_in(&self, realm: &str) -> Result<Option<SignedInUser>, SessionError> {
        let SignInStatus::SignedIn(user) = self.sign_in_status(realm).await? else {
            return Ok(None);
        };
        self.use_sign_in(realm, &user).await?;
        Ok(Some(user))
    }

    /// Whether the session is signed in to a realm, or why it no longer is. Is no use of the sign-in.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn sign_in_status(&self, realm: &str) -> Result<SignInStatus, SessionError> {
        let found = self.find().await?;
        let sign_in = found.and_then(|found| found.loaded.envelope.sign_ins.get(realm).cloned());
        let Some(sign_in) = sign_in else {
            return Ok(SignInStatus::SignedOut);
        };
        self.shared().saw_sign_in();
        if let Err(ended) = sign_in.check(now()) {
            return Ok(SignInStatus::Ended(ended));
        }
        if self.shared().store.users().is_none() {
            let generation = self.shared().generation(realm, sign_in.user()).await;
            if self.noted(generation)? != sign_in.generation {
                return Ok(SignInStatus::Ended(Ended::Elsewhere));
            }
        }
        Ok(SignInStatus::SignedIn(sign_in))
    }

    /// Records that a sign-in is used now, unless that was recorded a moment ago.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn use_sign_in(&self, realm: &str, user: &SignedInUser) -> Result<(), SessionError> {
        let now = now();
        if self.request.is_dry || !user.is_use_due(now) {
            return Ok(());
        }
        let (realm, client) = (realm.to_owned(), self.sign_in_client());
        let used = move |envelope: &mut Envelope<S>| {
            if let Some(sign_in) = envelope.sign_ins.get_mut(&realm) {
                sign_in.used(now, client.clone());
            }
        };
        self.change(used, false).await
    }

    /// What a sign-in may keep of this request's client.
    pub(crate) fn sign_in_client(&self) -> SignInClient {
        let config = &self.shared().config;
        let user_agent = self.request.user_agent.as_ref();
        SignInClient::new(
            user_agent
                .filter(|_| config.keep_user_agents)
                .map(HeaderValue::as_bytes),
            self.request
                .client
                .address
                .filter(|_| config.keep_addresses),
        )
    }

    /// This session's sign-in belongs to a new generation.
    pub(crate) async fn join_generation(
        &self,
        realm: &str,
        generation: u64,
    ) -> Result<(), SessionError> {
        let realm = realm.to_owned();
        let join = move |envelope: &mut Envelope<S>| {
            if let Some(sign_in) = envelope.sign_ins.get_mut(&realm) {
                sign_in.generation = Some(generation);
            }
        };
        self.change(join, false).await
    }

    /// The session's name in the store, if a realm trusts this browser: somebody has signed in there with it before,
    /// or has used a login token.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn trusted_browser(&self, realm: &str) -> Result<Option<Id>, SessionError> {
        let found = self.find().await?;
        let found = found.filter(|found| found.loaded.envelope.trusted_by.contains(realm));
        Ok(found.map(|found| found.id.hashed()))
    }

    /// Uses up a login token of a realm, which then trusts this browser, and returns whether it was one. Makes a
    /// session where there is none, however many its address has made.
    ///
    /// # Errors
    /// As [`Session::update`]. The token may be used up then.
    pub async fn use_login_token(
        &self,
        realm: &'static str,
        token: &str,
    ) -> Result<bool, SessionError> {
        if self.request.is_dry {
            return Ok(false);
        }
        let store = self.shared().store.as_ref();
        let used = self.noted(login_token::use_up(store, realm, token).await)?;
        if used {
            self.trust(realm).await?;
        }
        Ok(used)
    }

    async fn trust(&self, realm: &'static str) -> Result<(), SessionError> {
        let trust =
            move |envelope: &mut Envelope<S>| _ = envelope.trusted_by.insert(realm.to_owned());
        if self.find().await?.is_some() {
            return self.change(trust, false).await;
        }
        let mut envelope = Envelope::new(S::default());
        trust(&mut envelope);
        let creation = CreationGuard::begin(self).await;
        let created = self.create(envelope, creation).await;
        self.noted(created)
    }

    /// Adds a message that the next page shows once. Makes a session where there is none.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn add_message(&self, message: Message) -> Result<(), SessionError> {
        let add =
            move |envelope: &mut Envelope<S>| flash::add(&mut envelope.messages, message.clone());
        self.change(add, false).await
    }

    /// The messages that wait, which then wait no longer.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn take_messages(&self) -> Result<Vec<Message>, SessionError> {
        if self.state().latest().is_none() {
            self.find().await?;
        }
        let waiting = self
            .state()
            .latest()
            .is_some_and(|latest| !latest.envelope.messages.is_empty());
        if !waiting {
            return Ok(Vec::new());
        }
        let take = |envelope: &mut Envelope<S>| std::mem::take(&mut envelope.messages);
        self.change(take, false).await
    }

    /// Deletes the record at once and removes the cookie.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn flush(&self) -> Result<(), SessionError> {
        let found = self.find().await?;
        if self.request.is_dry {
            return Ok(());
        }
        if let Some(found) = found {
            let envelope = &found.loaded.envelope;
            let ended = self.shared().end(found.id.hashed(), envelope).await;
            self.noted(ended)?;
            self.shared().recorder.flushed.inc();
        }
        let mut request = self.state();
        request.lookup = Lookup::Absent;
        request.changes.clear();
        request.creation = Creation::None;
        request.id_change = IdChange::Keep;
        request.test_cookie = TestCookie::Keep;
        request.cookie = self.request.removal();
        Ok(())
    }

    /// The session as this request last saw it. Asks no store. `None`: there is none, or nothing has asked for it
    /// yet.
    pub fn snapshot(&self) -> Option<Snapshot<S>> {
        let request = self.state();
        let latest = request.latest()?;
        Some(latest.envelope.snapshot(latest.expires_at))
    }

    /// What is known of the session besides its state; `None`: there is no session.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn info(&self) -> Result<Option<Info>, SessionError> {
        let found = self.find().await?;
        Ok(found.map(|found| {
            let expires_at = found.loaded.record.expiry_date.unix_timestamp();
            found.loaded.envelope.snapshot(expires_at).info
        }))
    }

    /// What people may be shown of the session's id, once something has asked for the session and there is one.
    pub fn short_id(&self) -> Option<String> {
        self.stored_id().as_ref().map(id::short_id)
    }

    /// The name under which the store keeps the session, once something has asked for it and there is one.
    pub(crate) fn stored_id(&self) -> Option<Id> {
        Some(self.state().latest()?.id.hashed())
    }

    /// Subscribes to every change of the session, on whichever server. The first event is the session as it is now.
    /// `None`: there is no session.
    ///
    /// # Errors
    /// [`SessionError::TooManySubscribers`] where the server has all that it may have, and when the store can't be
    /// asked.
    pub async fn subscribe(&self) -> Result<Option<Subscription<S>>, SessionError> {
        match self.find().await? {
            Some(found) => {
                let subscription = self.shared().live.subscribe(found.id.hashed()).await;
                self.noted(subscription).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Whether the client has brought an id that names no session: one that has ended, or none that ever was. Known
    /// once something has asked for the session.
    pub fn has_unknown_id(&self) -> bool {
        self.request.sent_any && matches!(self.state().lookup, Lookup::Absent)
    }

    /// Who the request comes from.
    pub fn client(&self) -> ClientInfo {
        self.request.client
    }

    /// Whether this request changes nothing: its method is HEAD or OPTIONS, or it is a prefetch, whose response
    /// nobody may ever see. Changes then run on a copy.
    pub fn is_dry_run(&self) -> bool {
        self.request.is_dry
    }

    /// Whether the session was deleted elsewhere while this request worked with it. What the request wrote since
    /// then is in a new one.
    pub fn was_replaced(&self) -> bool {
        self.state().was_replaced
    }

    /// Keeps what went wrong, for the line in the log that tells of the response.
    pub(crate) fn noted<T>(&self, result: Result<T, SessionError>) -> Result<T, SessionError> {
        if let Err(error) = &result {
            self.state().error = Some(error.clone());
        }
        result
    }
}
