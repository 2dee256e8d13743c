//! How notifications reach their subscribers: to all nodes of a Cluster, or to the node that has the session.

use std::collections::BTreeMap;

use fred::{
    clients::{Client, SubscriberClient},
    error::{Error, ErrorKind},
    interfaces::{ClusterInterface, PubsubInterface},
    prelude::ClientLike,
    types::{CustomCommand, Value, cluster::ClusterRouting, config::Server, scripts::Script},
    util::redis_keyslot,
};
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};

/// The first version of Redis with `SPUBLISH`. Valkey and other forks report the version of Redis that they replace.
const FIRST_SHARDED_VERSION: u32 = 7;

/// How many `SSUBSCRIBE` commands wait for their responses at once.
const MAX_PENDING: usize = 256;

/// The commands that publish and subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// `PUBLISH`. In a Cluster, each message goes to every node, and a client subscribes on any one of them.
    Broadcast,
    /// `SPUBLISH`. In a Cluster, a message stays on the node that has the slot of its channel, and a client subscribes
    /// on that node.
    Sharded,
}

impl Delivery {
    /// The cheaper one of those that all nodes support.
    ///
    /// # Errors
    /// When a node does not respond.
    pub async fn supported(client: &Client) -> Result<Self, Error> {
        if !client.is_clustered() {
            return Ok(Self::Broadcast);
        }
        let nodes = client.active_connections();
        let versions = try_join_all(nodes.into_iter().map(|node| version(client, node))).await?;
        let is_sharded = versions.iter().all(|major| *major >= FIRST_SHARDED_VERSION);
        Ok(if is_sharded {
            Self::Sharded
        } else {
            Self::Broadcast
        })
    }

    /// A script that publishes. Its text has `PUBLISH`.
    pub fn script(self, lua: &str) -> Script {
        match self {
            Self::Broadcast => Script::from_lua(lua),
            Self::Sharded => Script::from_lua(lua.replace("'PUBLISH'", "'SPUBLISH'")),
        }
    }

    /// Subscribes to channels, and waits until the subscriptions are active.
    ///
    /// # Errors
    /// When a node does not respond.
    pub async fn subscribe(
        self,
        client: &SubscriberClient,
        channels: Vec<String>,
    ) -> Result<(), Error> {
        match self {
            Self::Broadcast => {
                client.subscribe(channels).await?;
                // The client does not wait for the response to SUBSCRIBE. That to PING follows it.
                self.ping(client).await
            }
            Self::Sharded => {
                let pending = channels
                    .into_iter()
                    .map(|channel| subscribe_on_its_node(client, channel));
                stream::iter(pending)
                    .buffer_unordered(MAX_PENDING)
                    .try_collect()
                    .await
            }
        }
    }

    /// Unsubscribes from a channel.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn unsubscribe(
        self,
        client: &SubscriberClient,
        channel: String,
    ) -> Result<(), Error> {
        match self {
            Self::Broadcast => client.unsubscribe(channel).await,
            // A node that no longer has the slot responds with an error that fred takes for the response to another
            // command, if one is pending. That command is sent again then.
            Self::Sharded => client.sunsubscribe(channel).await,
        }
    }

    /// Waits until each node with subscriptions has executed the earlier commands.
    ///
    /// # Errors
    /// When a node does not respond.
    pub async fn ping(self, client: &SubscriberClient) -> Result<(), Error> {
        let is_sharded = self == Self::Sharded;
        let map = is_sharded.then(|| client.cached_cluster_state()).flatten();
        let slots = match map {
            Some(map) => a_slot_of_each_node(&map),
            // In a Cluster, fred subscribes on the node that the client's id selects.
            None => vec![redis_keyslot(client.id().as_bytes())],
        };
        try_join_all(slots.into_iter().map(|slot| async move {
            let ping = CustomCommand::new_static("PING", slot, false);
            client.custom::<Value, Value>(ping, Vec::new()).await
        }))
        .await
        .map(|_| ())
    }
}

/// Subscribes to a channel on the node that has its slot.
///
/// fred's own `ssubscribe` waits for each response before it sends the next command.
async fn subscribe_on_its_node(client: &SubscriberClient, channel: String) -> Result<(), Error> {
    let subscribe = || {
        let slot = redis_keyslot(channel.as_bytes());
        let command = CustomCommand::new_static("SSUBSCRIBE", slot, false);
        client.custom::<Value, Value>(command, vec![channel.as_str().into()])
    };
    match subscribe().await {
        // By now, the client knows the node that the slot has moved to.
        Err(error) if *error.kind() == ErrorKind::Routing => subscribe().await,
        other => other,
    }
    .map(|_| ())
}

/// The major version of a node.
async fn version(client: &Client, node: Server) -> Result<u32, Error> {
    let info = CustomCommand::new_static("INFO", None, false);
    let info: String = client
        .with_cluster_node(node)
        .custom(info, vec!["server"])
        .await?;
    let version = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"));
    let major = version.and_then(|version| version.split('.').next()?.parse().ok());
    Ok(major.unwrap_or_default())
}

/// A slot of each node.
fn a_slot_of_each_node(map: &ClusterRouting) -> Vec<u16> {
    let ranges = map.slots().iter();
    let slots: BTreeMap<&Server, u16> = ranges.map(|range| (&range.primary, range.start)).collect();
    slots.into_values().collect()
}

/// The nodes that have the slots.
#[derive(Debug)]
pub struct Slots(Option<ClusterRouting>);

impl Slots {
    /// The map that a client uses.
    pub fn known_to(client: &SubscriberClient) -> Self {
        Self(client.cached_cluster_state())
    }

    /// Asks the Cluster where the slots are.
    ///
    /// # Errors
    /// When no node responds.
    pub async fn current(client: &SubscriberClient) -> Result<Self, Error> {
        client.sync_cluster().await?;
        Ok(Self::known_to(client))
    }

    /// Whether another node has a channel's slot.
    pub fn moved(&self, now: &Self, channel: &str) -> bool {
        self.node(channel) != now.node(channel)
    }

    fn node(&self, channel: &str) -> Option<&Server> {
        self.0
            .as_ref()?
            .get_server(redis_keyslot(channel.as_bytes()))
    }
}
