//! The connection that receives changes, replaced when it has become useless as those of the pools are.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use fred::{
    clients::SubscriberClient,
    error::Error,
    interfaces::PubsubInterface,
    prelude::{Builder, ClientLike, EventInterface},
    types::{CustomCommand, Message, Value, config::Server},
    util::redis_keyslot,
};
use tokio::{
    sync::{
        Mutex as AsyncMutex,
        broadcast::{Receiver, error::RecvError},
        watch,
    },
    time::{sleep, timeout},
};

use super::pool::{Faults, Health, Task, connected, is_demoted, with_nodes};

/// Messages that wait to be received; more than that are received as "any of them may have changed".
const WAITING_MESSAGES: usize = 1_024;

/// After so much silence the connection is tried.
const SILENCE: Duration = Duration::from_secs(10);

/// How long it may take to answer when another connection has just failed.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The wait between two tries to replace it.
const RETRY: Duration = Duration::from_millis(250);

/// What a subscription brings.
pub enum Event {
    Message(Message),
    /// The connection was away, or too many messages came: any of them may be missing.
    Lagged,
}

/// Subscriptions that outlive their connection.
#[derive(Debug)]
pub struct Subscriber {
    builder: Builder,
    /// What is subscribed to, on whichever connection.
    channels: Mutex<BTreeSet<String>>,
    client: RwLock<SubscriberClient>,
    /// Held by the one task that receives.
    receiving: AsyncMutex<Receiving>,
}

/// The receiving side of a connection.
struct Receiving {
    task: Task,
    messages: Receiver<Message>,
    reconnections: Receiver<Server>,
    faults: watch::Receiver<Faults>,
    /// The faults that have been looked at.
    seen: Faults,
}

impl std::fmt::Debug for Receiving {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Receiving")
    }
}

/// Why the connection has to be looked at.
enum Doubt {
    Message(Message),
    Lagged,
    Reconnected,
    /// Nothing has come for long, or another connection failed.
    Silent(Duration),
    Useless,
}

impl Subscriber {
    /// Makes the connection.
    ///
    /// # Errors
    /// When it can't be made.
    pub async fn connect(mut builder: Builder, health: &Health) -> Result<Self, Error> {
        builder.with_performance_config(|performance| {
            performance.broadcast_channel_capacity = WAITING_MESSAGES;
        });
        let faults = health.subscribe();
        let seen = *faults.borrow();
        let client = builder.build_subscriber_client()?;
        let receiving = Receiving::of(&client, connected(&client).await?, faults, seen);
        Ok(Self {
            builder,
            channels: Mutex::default(),
            client: RwLock::new(client),
            receiving: AsyncMutex::new(receiving),
        })
    }

    /// Receives this channel's messages from now on. The client waits for no response to a
    /// subscription, so that a message might come before it.
    ///
    /// # Errors
    /// When the server does not answer; the channel is subscribed to with the next connection then.
    pub async fn subscribe(&self, channel: String) -> Result<(), Error> {
        self.channels().insert(channel.clone());
        let client = self.client();
        client.subscribe(channel).await?;
        answered(&client).await
    }

    /// Receives this channel's messages no longer.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn unsubscribe(&self, channel: String) -> Result<(), Error> {
        self.channels().remove(&channel);
        self.client().unsubscribe(channel).await
    }

    /// Waits for the next event.
    pub async fn next_event(&self) -> Event {
        let mut receiving = self.receiving.lock().await;
        loop {
            let useless = match receiving.next().await {
                Doubt::Message(message) => return Event::Message(message),
                Doubt::Lagged => return Event::Lagged,
                Doubt::Reconnected => {
                    if self.subscribe_again().await.is_ok() {
                        return Event::Lagged;
                    }
                    true
                }
                Doubt::Silent(limit) => {
                    let client = self.client();
                    !matches!(timeout(limit, answered(&client)).await, Ok(Ok(())))
                }
                Doubt::Useless => true,
            };
            if useless {
                self.replace(&mut receiving).await;
                return Event::Lagged;
            }
        }
    }

    /// Tries until there is a new connection with the same subscriptions.
    async fn replace(&self, receiving: &mut Receiving) {
        let nodes = self.client().active_connections();
        loop {
            let builder = with_nodes(&self.builder, &nodes);
            if let Ok(client) = builder.build_subscriber_client()
                && let Ok(task) = connected(&client).await
            {
                let (faults, seen) = (receiving.faults.clone(), receiving.seen);
                *receiving = Receiving::of(&client, task, faults, seen);
                *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
                if self.subscribe_again().await.is_ok() {
                    return;
                }
            }
            sleep(RETRY).await;
        }
    }

    /// A new connection is subscribed to nothing.
    async fn subscribe_again(&self) -> Result<(), Error> {
        let channels: Vec<String> = self.channels().iter().cloned().collect();
        if channels.is_empty() {
            return Ok(());
        }
        let client = self.client();
        client.subscribe(channels).await?;
        answered(&client).await
    }

    /// Closes the connection.
    pub async fn quit(&self) {
        let _ = self.client().quit().await;
    }

    fn client(&self) -> SubscriberClient {
        self.client
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn channels(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receiving {
    fn of(
        client: &SubscriberClient,
        task: Task,
        faults: watch::Receiver<Faults>,
        seen: Faults,
    ) -> Self {
        Self {
            task,
            messages: client.message_rx(),
            reconnections: client.reconnect_rx(),
            faults,
            seen,
        }
    }

    async fn next(&mut self) -> Doubt {
        tokio::select! {
            message = self.messages.recv() => match message {
                Ok(message) => Doubt::Message(message),
                Err(RecvError::Lagged(_)) => Doubt::Lagged,
                Err(RecvError::Closed) => Doubt::Useless,
            },
            _ = self.reconnections.recv() => Doubt::Reconnected,
            _ = &mut self.task.0 => Doubt::Useless,
            changed = self.faults.changed() => {
                let before = std::mem::replace(&mut self.seen, *self.faults.borrow_and_update());
                if changed.is_ok() && is_demoted(before, self.seen) {
                    Doubt::Useless
                } else {
                    Doubt::Silent(PROBE_TIMEOUT)
                }
            }
            // A connection may die without a word, and nothing is ever sent on this one.
            () = sleep(SILENCE) => Doubt::Silent(SILENCE),
        }
    }
}

/// Waits until Redis has done what it was asked for on this connection. In a Cluster the client chooses
/// that server by its own name.
async fn answered(client: &SubscriberClient) -> Result<(), Error> {
    let slot = redis_keyslot(client.id().as_bytes());
    let ping = CustomCommand::new_static("PING", slot, false);
    client
        .custom::<Value, Value>(ping, Vec::new())
        .await
        .map(|_| ())
}
