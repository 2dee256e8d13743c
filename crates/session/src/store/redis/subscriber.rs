//! The connection that receives notifications of changes. Like the pools' connections, it is replaced when it has
//! become useless.

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

use super::pool::{Faults, Health, Task, connected, must_replace, with_nodes};

/// The most messages that wait to be received. If there are more, the receiver gets [`Event::Lagged`].
const MAX_MESSAGES: usize = 1_024;

/// After how long without a message the connection is probed.
const SILENCE: Duration = Duration::from_secs(10);

/// How long the connection may take to respond when another one has just failed.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The wait between two tries to replace the connection.
const RETRY: Duration = Duration::from_millis(250);

/// An event of the subscriptions.
pub enum Event {
    Message(Message),
    /// The connection was lost, or there were too many messages. Any number of messages may be missing.
    Lagged,
}

/// Subscriptions that outlive their connection.
#[derive(Debug)]
pub struct Subscriber {
    builder: Builder,
    /// The channels to which every new connection subscribes.
    channels: Mutex<BTreeSet<String>>,
    client: RwLock<SubscriberClient>,
    /// Locked by the one task that receives events.
    receiving: AsyncMutex<Receiving>,
}

/// The receiving side of a connection.
struct Receiving {
    task: Task,
    messages: Receiver<Message>,
    reconnections: Receiver<Server>,
    faults: watch::Receiver<Faults>,
    /// The faults for which the connection has been checked.
    seen: Faults,
}

impl std::fmt::Debug for Receiving {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Receiving")
    }
}

/// An incident on the connection.
enum Incident {
    Message(Message),
    Lagged,
    Reconnected,
    /// No message has arrived for a while, or another connection has failed. The connection must respond within this
    /// time.
    Silent(Duration),
    Useless,
}

impl Subscriber {
    /// Opens the connection.
    ///
    /// # Errors
    /// When it can't be opened.
    pub async fn connect(mut builder: Builder, health: &Health) -> Result<Self, Error> {
        builder.with_performance_config(|performance| {
            performance.broadcast_channel_capacity = MAX_MESSAGES;
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

    /// Subscribes to a channel. The client does not wait for the response to SUBSCRIBE, so a PING follows: its response
    /// shows that the subscription is active.
    ///
    /// # Errors
    /// When the server does not respond. The next connection then subscribes to the channel.
    pub async fn subscribe(&self, channel: String) -> Result<(), Error> {
        self.channels().insert(channel.clone());
        let client = self.client();
        client.subscribe(channel).await?;
        ping(&client).await
    }

    /// Unsubscribes from a channel.
    ///
    /// # Errors
    /// When the server does not respond.
    pub async fn unsubscribe(&self, channel: String) -> Result<(), Error> {
        self.channels().remove(&channel);
        self.client().unsubscribe(channel).await
    }

    /// Waits for the next event.
    pub async fn next_event(&self) -> Event {
        let mut receiving = self.receiving.lock().await;
        loop {
            let is_useless = match receiving.next().await {
                Incident::Message(message) => return Event::Message(message),
                Incident::Lagged => return Event::Lagged,
                Incident::Reconnected => {
                    if self.resubscribe().await.is_ok() {
                        return Event::Lagged;
                    }
                    true
                }
                Incident::Silent(limit) => {
                    let client = self.client();
                    !matches!(timeout(limit, ping(&client)).await, Ok(Ok(())))
                }
                Incident::Useless => true,
            };
            if is_useless {
                self.replace(&mut receiving).await;
                return Event::Lagged;
            }
        }
    }

    /// Replaces the connection, and subscribes to the same channels. Tries until it succeeds.
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
                if self.resubscribe().await.is_ok() {
                    return;
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Subscribes a new connection to all channels.
    async fn resubscribe(&self) -> Result<(), Error> {
        let channels: Vec<String> = self.channels().iter().cloned().collect();
        if channels.is_empty() {
            return Ok(());
        }
        let client = self.client();
        client.subscribe(channels).await?;
        ping(&client).await
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

    async fn next(&mut self) -> Incident {
        tokio::select! {
            message = self.messages.recv() => match message {
                Ok(message) => Incident::Message(message),
                Err(RecvError::Lagged(_)) => Incident::Lagged,
                Err(RecvError::Closed) => Incident::Useless,
            },
            _ = self.reconnections.recv() => Incident::Reconnected,
            _ = &mut self.task.0 => Incident::Useless,
            changed = self.faults.changed() => {
                let before = std::mem::replace(&mut self.seen, *self.faults.borrow_and_update());
                if changed.is_ok() && must_replace(before, self.seen) {
                    Incident::Useless
                } else {
                    Incident::Silent(PROBE_TIMEOUT)
                }
            }
            // A dead connection may never close, and this one has no commands that could time out.
            () = sleep(SILENCE) => Incident::Silent(SILENCE),
        }
    }
}

/// Waits until Redis has executed the earlier commands on this connection. In a Cluster, the client's id selects the
/// node that the client subscribes on.
async fn ping(client: &SubscriberClient) -> Result<(), Error> {
    let slot = redis_keyslot(client.id().as_bytes());
    let ping = CustomCommand::new_static("PING", slot, false);
    client
        .custom::<Value, Value>(ping, Vec::new())
        .await
        .map(|_| ())
}
