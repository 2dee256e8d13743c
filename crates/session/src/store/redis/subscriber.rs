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
    prelude::{Builder, ClientLike, EventInterface},
    types::{Message, config::Server},
};
use tokio::{
    sync::{
        Mutex as AsyncMutex, Notify,
        broadcast::{Receiver, error::RecvError},
        watch,
    },
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    delivery::{Delivery, Slots},
    pool::{Faults, Health, Task, connected, must_replace, with_nodes},
};

/// The most messages that wait to be received. If there are more, the receiver gets [`Event::Lagged`].
const MAX_MESSAGES: usize = 1_024;

/// How often the connection is probed, and how long it may take to respond. A dead connection may never close, and
/// this one has no commands that could time out.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// How long the connection may take to respond when another one has just failed.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The shortest time between two looks at where a Cluster's slots are.
const MIN_SLOTS_INTERVAL: Duration = Duration::from_millis(250);

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
    delivery: Delivery,
    /// Notified when slots of a Cluster have moved.
    moved: Notify,
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
    /// Where the slots were when the channels were subscribed to. A node that gives a slot away drops its
    /// subscriptions.
    slots: Slots,
    last_probe: Instant,
    next_probe: Instant,
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
    /// It is time to probe the connection, and to look where the slots are.
    ProbeDue,
    /// Another connection has failed. This one must respond soon.
    Suspect,
    Useless,
}

/// What a probe of the connection has found.
enum Probe {
    Unchanged,
    /// Messages of the slots that have moved may be missing.
    SlotsMoved,
}

impl Subscriber {
    /// Opens the connection.
    ///
    /// # Errors
    /// When it can't be opened.
    pub async fn connect(
        mut builder: Builder,
        health: &Health,
        delivery: Delivery,
    ) -> Result<Self, Error> {
        builder.with_performance_config(|performance| {
            performance.broadcast_channel_capacity = MAX_MESSAGES;
        });
        let faults = health.subscribe();
        let seen = *faults.borrow();
        let client = builder.build_subscriber_client()?;
        let receiving = Receiving::of(&client, connected(&client).await?, faults, seen);
        Ok(Self {
            builder,
            delivery,
            moved: Notify::new(),
            channels: Mutex::default(),
            client: RwLock::new(client),
            receiving: AsyncMutex::new(receiving),
        })
    }

    /// Subscribes to a channel, and waits until the subscription is active.
    ///
    /// # Errors
    /// When the server does not respond. The next connection then subscribes to the channel.
    pub async fn subscribe(&self, channel: String) -> Result<(), Error> {
        self.channels().insert(channel.clone());
        self.delivery.subscribe(&self.client(), vec![channel]).await
    }

    /// Unsubscribes from a channel.
    ///
    /// # Errors
    /// When the server does not respond.
    pub async fn unsubscribe(&self, channel: String) -> Result<(), Error> {
        self.channels().remove(&channel);
        self.delivery.unsubscribe(&self.client(), channel).await
    }

    /// Makes the receiving task look where the slots of a Cluster are, because a command was redirected.
    pub fn slots_moved(&self) {
        self.moved.notify_one();
    }

    /// Whether a task waits for the next event.
    pub fn is_receiving(&self) -> bool {
        self.receiving.try_lock().is_err()
    }

    /// Waits for the next event.
    pub async fn next_event(&self) -> Event {
        let mut receiving = self.receiving.lock().await;
        loop {
            let is_useless = match receiving.next(&self.moved).await {
                Incident::Message(message) => return Event::Message(message),
                Incident::Lagged => return Event::Lagged,
                Incident::Reconnected => {
                    if self.resubscribe().await.is_ok() {
                        return Event::Lagged;
                    }
                    true
                }
                Incident::ProbeDue => {
                    let probed = timeout(PROBE_INTERVAL, self.probe(&mut receiving));
                    match probed.await {
                        Ok(Ok(Probe::Unchanged)) => false,
                        Ok(Ok(Probe::SlotsMoved)) => return Event::Lagged,
                        _ => true,
                    }
                }
                Incident::Suspect => {
                    let client = self.client();
                    let responds = timeout(PROBE_TIMEOUT, self.delivery.ping(&client));
                    !matches!(responds.await, Ok(Ok(())))
                }
                Incident::Useless => true,
            };
            if is_useless {
                self.replace(&mut receiving).await;
                return Event::Lagged;
            }
        }
    }

    /// Waits until every node with subscriptions responds. Subscribes again to channels whose slot has moved.
    async fn probe(&self, receiving: &mut Receiving) -> Result<Probe, Error> {
        let client = self.client();
        if self.delivery == Delivery::Broadcast {
            self.delivery.ping(&client).await?;
            return Ok(Probe::Unchanged);
        }
        let slots = Slots::current(&client).await?;
        self.delivery.ping(&client).await?;
        let mut channels = self.all_channels();
        channels.retain(|channel| receiving.slots.moved(&slots, channel));
        let found = if channels.is_empty() {
            Probe::Unchanged
        } else {
            self.delivery.subscribe(&client, channels).await?;
            Probe::SlotsMoved
        };
        receiving.slots = slots;
        Ok(found)
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
        let channels = self.all_channels();
        if channels.is_empty() {
            return Ok(());
        }
        self.delivery.subscribe(&self.client(), channels).await
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

    fn all_channels(&self) -> Vec<String> {
        self.channels().iter().cloned().collect()
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
            slots: Slots::known_to(client),
            last_probe: Instant::now(),
            next_probe: Instant::now() + PROBE_INTERVAL,
        }
    }

    async fn next(&mut self, moved: &Notify) -> Incident {
        loop {
            tokio::select! {
                message = self.messages.recv() => return match message {
                    Ok(message) => Incident::Message(message),
                    Err(RecvError::Lagged(_)) => Incident::Lagged,
                    Err(RecvError::Closed) => Incident::Useless,
                },
                _ = self.reconnections.recv() => return Incident::Reconnected,
                _ = &mut self.task.0 => return Incident::Useless,
                changed = self.faults.changed() => {
                    let before = std::mem::replace(&mut self.seen, *self.faults.borrow_and_update());
                    return if changed.is_ok() && must_replace(before, self.seen) {
                        Incident::Useless
                    } else {
                        Incident::Suspect
                    };
                }
                () = moved.notified() => {
                    self.next_probe = self.next_probe.min(self.last_probe + MIN_SLOTS_INTERVAL);
                }
                () = sleep_until(self.next_probe) => {
                    self.last_probe = Instant::now();
                    self.next_probe = self.last_probe + PROBE_INTERVAL;
                    return Incident::ProbeDue;
                }
            }
        }
    }
}
