//! The handle to one request's session.

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

/// The session of one request. Clones share the same state.
///
/// An axum handler takes it as an argument. A Leptos server function calls
/// [`use_session`](crate::use_session) (feature `leptos`). Any other service inside the layer finds it in the
/// request's extensions.
///
/// HEAD and OPTIONS requests and prefetches (`Sec-Purpose` or `Purpose: prefetch`) change nothing. A change in such
/// a request runs on a copy of the state. It returns its result, and the copy is not saved.
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
        &self.request.shared
    }

    /// Loads the state. Returns the default state if there is no session.
    ///
    /// Reading stores nothing and does not extend the session's lifetime.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn read(&self) -> Result<S, SessionError> {
        let found = self.find().await?;
        Ok(found
            .map(|found| found.loaded.envelope.state.clone())
            .unwrap_or_default())
    }

    /// Changes the state and returns the result of `change`.
    ///
    /// A `change` that leaves the state as it was is not stored, and creates no session.
    ///
    /// `change` may run more than once, each time on a newer state, so its result must depend only on the state.
    ///
    /// Once polled, the change runs to its end even if the future is dropped. If the response fails, the change is
    /// rolled back.
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
    /// When the change was not saved. After [`SessionError::Indeterminate`] it may have been saved.
    pub async fn update<T, F>(&self, change: F) -> Result<T, SessionError>
    where
        F: Fn(&mut S) -> T + Send + Sync + 'static,
        T: Send + 'static,
    {
        self.change(move |envelope| change(&mut envelope.state), false)
            .await
    }

    /// The session's own expiry. `None`: the config decides.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn expiry(&self) -> Result<Option<Expiry>, SessionError> {
        let found = self.find().await?;
        Ok(found.and_then(|found| found.loaded.envelope.expiry))
    }

    /// Sets the session's own expiry, which is stored with it. `None` restores the expiry from the config.
    ///
    /// Creates a session if there is none.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn set_expiry(&self, expiry: Option<Expiry>) -> Result<(), SessionError> {
        self.change(move |envelope| envelope.expiry = expiry, false)
            .await
    }

    /// When the session expires unless it is written again. `None`: there is no session.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn expires_at(&self) -> Result<Option<OffsetDateTime>, SessionError> {
        let found = self.find().await?;
        Ok(found.map(|found| found.loaded.record.expiry_date))
    }

    /// Extends the session's lifetime as a change would. Does nothing if there is no session.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn touch(&self) -> Result<(), SessionError> {
        self.change(|_| (), true).await
    }

    /// Marks the session to find out whether the client keeps cookies. A later request checks it with
    /// [`Session::test_cookie_worked`].
    ///
    /// The mark is saved with this request's next [`Session::update`], or before the response begins. Creates a
    /// session if there is none.
    pub fn set_test_cookie(&self) {
        self.change_test_cookie(TestCookie::Set);
    }

    /// Removes the mark of [`Session::set_test_cookie`], if there is one. The removal is saved as the mark is.
    pub fn delete_test_cookie(&self) {
        self.change_test_cookie(TestCookie::Delete);
    }

    fn change_test_cookie(&self, change: TestCookie) {
        if let Some(mut request) = self.request.before_head("test cookie") {
            request.test_cookie = change;
        }
    }

    /// Whether an earlier request set the test mark, so the client has sent its cookie back. Always `false` in the
    /// request that set the mark.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn test_cookie_worked(&self) -> Result<bool, SessionError> {
        let found = self.find().await?;
        let mark = found.and_then(|found| found.loaded.envelope.test_mark);
        Ok(mark.is_some_and(|marked_by| marked_by != self.request.number))
    }

    /// Moves the session to a new id when the response succeeds. The data stays, and the old id becomes invalid.
    ///
    /// Call it whenever a client's privileges change. [`Session::sign_in`] and [`Session::sign_out`] already do.
    pub fn cycle_id(&self) {
        if let Some(mut request) = self.request.before_head("new id")
            && request.id_change == IdChange::Keep
        {
            request.id_change = IdChange::Cycle;
        }
    }

    /// Signs in to a realm. Creates a session if there is none.
    ///
    /// When the response succeeds, the session moves to a new id, which is signed in. The old id is never signed in,
    /// so it is worthless to an attacker who knows it. If the response fails, the old id works as before.
    ///
    /// A guest's state is kept. If the session was signed in to the realm as another user, its state is reset to the
    /// default.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn sign_in(&self, realm: &'static str, sign_in: SignIn) -> Result<(), SessionError> {
        let found = self.find().await?;
        let is_another_user = found.is_some_and(|found| {
            let current = found.loaded.envelope.sign_ins.get(realm);
            current.is_some_and(|current| current.user() != sign_in.user())
        });
        if is_another_user {
            self.change(Envelope::clear, false).await?;
        }
        if let Some(mut request) = self.request.before_head("sign-in") {
            request.id_change = IdChange::SignIn(realm, sign_in);
        }
        Ok(())
    }

    /// Signs out of a realm and moves the session to a new id. The session's other data stays.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn sign_out(&self, realm: &'static str) -> Result<(), SessionError> {
        self.end_sign_in(realm).await?;
        self.cycle_id();
        Ok(())
    }

    /// Removes the sign-in to a realm without changing the session's id. Returns `false` if there was none.
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

    /// Returns the user who is signed in to a realm, and records that the sign-in was used. `None`: nobody is signed
    /// in, or the sign-in has ended.
    ///
    /// The application must check that the password has not changed since, with [`SignedInUser::matches_auth_hash`].
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

    /// Whether the session is signed in to a realm, or why it no longer is. Does not count as a use of the sign-in.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sign_in_status(&self, realm: &str) -> Result<SignInStatus, SessionError> {
        let found = self.find().await?;
        let sign_in = found.and_then(|found| found.loaded.envelope.sign_ins.get(realm).cloned());
        let Some(sign_in) = sign_in else {
            return Ok(SignInStatus::SignedOut);
        };
        self.shared().set_has_sign_ins();
        if let Err(ended) = sign_in.check(now()) {
            return Ok(SignInStatus::Ended(ended));
        }
        if self.shared().store.users().is_none() {
            let generation = self.shared().generation(realm, sign_in.user()).await;
            if self.record_error(generation)? != sign_in.generation {
                return Ok(SignInStatus::Ended(Ended::Elsewhere));
            }
        }
        Ok(SignInStatus::SignedIn(sign_in))
    }

    /// Records that a sign-in was used now, unless a use was recorded a moment ago.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn use_sign_in(&self, realm: &str, user: &SignedInUser) -> Result<(), SessionError> {
        let now = now();
        if self.request.is_dry || !user.is_use_due(now) {
            return Ok(());
        }
        let (realm, client) = (realm.to_owned(), self.sign_in_client());
        let record_use = move |envelope: &mut Envelope<S>| {
            if let Some(sign_in) = envelope.sign_ins.get_mut(&realm) {
                sign_in.record_use(now, client.clone());
            }
        };
        self.change(record_use, false).await
    }

    /// The client of this request, as far as the config allows a sign-in to store it.
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

    /// Moves this session's sign-in to a new generation.
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

    /// The session's id in the store, if a realm trusts this browser. A realm trusts a browser in which someone has
    /// signed in before, or has used a login token.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn trusted_browser(&self, realm: &str) -> Result<Option<Id>, SessionError> {
        let found = self.find().await?;
        let found = found.filter(|found| found.loaded.envelope.trusted_by.contains(realm));
        Ok(found.map(|found| found.id.hashed()))
    }

    /// Redeems a login token of a realm, so that the realm trusts this browser. Returns whether the token was valid.
    ///
    /// Creates a session if there is none. The limit on new sessions of an address does not apply.
    ///
    /// # Errors
    /// As [`Session::update`]. The token may have been used up.
    pub async fn use_login_token(
        &self,
        realm: &'static str,
        token: &str,
    ) -> Result<bool, SessionError> {
        if self.request.is_dry {
            return Ok(false);
        }
        let store = self.shared().store.as_ref();
        let was_valid = self.record_error(login_token::redeem(store, realm, token).await)?;
        if was_valid {
            self.trust_browser(realm).await?;
        }
        Ok(was_valid)
    }

    async fn trust_browser(&self, realm: &'static str) -> Result<(), SessionError> {
        let trust =
            move |envelope: &mut Envelope<S>| _ = envelope.trusted_by.insert(realm.to_owned());
        if self.find().await?.is_some() {
            return self.change(trust, false).await;
        }
        let mut envelope = Envelope::new(S::default());
        trust(&mut envelope);
        let creation = CreationGuard::begin(self).await;
        let created = self.create(envelope, creation).await;
        self.record_error(created)
    }

    /// Adds a message for the next page to show once. Creates a session if there is none.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn add_message(&self, message: Message) -> Result<(), SessionError> {
        let add =
            move |envelope: &mut Envelope<S>| flash::add(&mut envelope.messages, message.clone());
        self.change(add, false).await
    }

    /// Returns the pending messages, and removes them from the session.
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

    /// Deletes the session from the store at once. The response removes the cookie.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn flush(&self) -> Result<(), SessionError> {
        let found = self.find().await?;
        if self.request.is_dry {
            return Ok(());
        }
        if let Some(found) = found {
            let envelope = &found.loaded.envelope;
            let ended = self.shared().end(found.id.hashed(), envelope).await;
            self.record_error(ended)?;
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

    /// The session as this request last saw it, without a query to the store. `None`: there is no session, or nothing
    /// has loaded it yet.
    pub fn snapshot(&self) -> Option<Snapshot<S>> {
        let request = self.state();
        let latest = request.latest()?;
        Some(latest.envelope.snapshot(latest.expires_at))
    }

    /// The session's metadata. `None`: there is no session.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn info(&self) -> Result<Option<Info>, SessionError> {
        let found = self.find().await?;
        Ok(found.map(|found| {
            let expires_at = found.loaded.record.expiry_date.unix_timestamp();
            found.loaded.envelope.snapshot(expires_at).info
        }))
    }

    /// The session's short id, which is safe to show to people. `None`: there is no session, or nothing has loaded it
    /// yet.
    pub fn short_id(&self) -> Option<String> {
        self.stored_id().as_ref().map(id::short_id)
    }

    /// The session's id in the store. `None`: there is no session, or nothing has loaded it yet.
    pub(crate) fn stored_id(&self) -> Option<Id> {
        Some(self.state().latest()?.id.hashed())
    }

    /// Subscribes to every change of the session, whichever server makes it. The first event is the current state.
    /// `None`: there is no session.
    ///
    /// # Errors
    /// [`SessionError::TooManySubscribers`] when the server has reached its limit or is stopping. Also when the store
    /// fails.
    pub async fn subscribe(&self) -> Result<Option<Subscription<S>>, SessionError> {
        match self.find().await? {
            Some(found) => {
                let subscription = self.shared().live.subscribe(found.id.hashed()).await;
                self.record_error(subscription).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Whether the client sent an id that belongs to no session, because the session has ended or never existed.
    /// Known once something has loaded the session, and `false` before.
    pub fn has_unknown_id(&self) -> bool {
        self.request.sent_any && matches!(self.state().lookup, Lookup::Absent)
    }

    /// The client that sent the request.
    pub fn client(&self) -> ClientInfo {
        self.request.client
    }

    /// Whether this request must not change anything: its method is HEAD or OPTIONS, or it is a prefetch, whose
    /// response may never be shown. Changes then run on a copy.
    pub fn is_dry_run(&self) -> bool {
        self.request.is_dry
    }

    /// Whether another request deleted the session while this one worked with it. Anything that this request has
    /// written since is in a new session.
    pub fn was_replaced(&self) -> bool {
        self.state().was_replaced
    }

    /// Remembers an error, so that the response carries it to the access log.
    pub(crate) fn record_error<T>(
        &self,
        result: Result<T, SessionError>,
    ) -> Result<T, SessionError> {
        if let Err(error) = &result {
            self.state().error = Some(error.clone());
        }
        result
    }
}
