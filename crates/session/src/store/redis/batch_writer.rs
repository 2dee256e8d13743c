//! Sends the saves of many sessions to Redis in one command. Saves that are submitted while commands are in progress go
//! together in the next one. Under load, this spares both sides most of their work. A single save takes no longer than
//! without batches.

use std::sync::Arc;

use fred::{
    error::Error,
    prelude::ClientLike,
    types::{CustomCommand, Value, scripts::Script},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::yield_now,
};
use tower_sessions::session_store;

use super::{backend, is_unknown_script, pool::Pool};

/// The most saves in one command. It bounds how long other commands wait for Redis.
const MAX_BATCH: usize = 64;

/// The most commands in progress. With one, this server waits while Redis works, and Redis while this server does.
const MAX_COMMANDS: usize = 2;

const COMPARE_AND_SWAP_ALL: &str = include_str!("lua/compare_and_swap_all.lua");

/// A save that waits for its batch.
#[derive(Debug)]
struct Save {
    key: String,
    arguments: [Vec<u8>; 3],
    done: oneshot::Sender<session_store::Result<Value>>,
}

/// Submits saves to the task that sends them. Dropping it ends the task.
#[derive(Debug)]
pub struct BatchWriter {
    saves: mpsc::UnboundedSender<Save>,
}

impl BatchWriter {
    /// Starts the task, which writes over a pool's connections.
    ///
    /// # Errors
    /// When the script can't be loaded into Redis.
    pub async fn start(pool: &Arc<Pool>) -> Result<Self, Error> {
        let (saves, waiting) = mpsc::unbounded_channel();
        let script = Script::from_lua(COMPARE_AND_SWAP_ALL);
        load(pool, &script).await?;
        tokio::spawn(write_batches(Arc::clone(pool), Arc::new(script), waiting));
        Ok(Self { saves })
    }

    /// Saves the record of a key. `arguments`: the old bytes, the new bytes, and the expiry. Returns 1, or the value
    /// that is stored instead of the old bytes.
    pub async fn submit(
        &self,
        key: String,
        arguments: [Vec<u8>; 3],
    ) -> session_store::Result<Value> {
        let (done, saved) = oneshot::channel();
        let save = Save {
            key,
            arguments,
            done,
        };
        let gone = |_| backend("the batch writer has ended");
        self.saves.send(save).map_err(|_| gone(()))?;
        saved.await.map_err(|_| gone(()))?
    }
}

/// Sends the waiting saves until the writer is dropped.
async fn write_batches(
    pool: Arc<Pool>,
    script: Arc<Script>,
    mut waiting: mpsc::UnboundedReceiver<Save>,
) {
    let commands = Arc::new(Semaphore::new(MAX_COMMANDS));
    // The semaphore is never closed.
    while let Ok(command) = Arc::clone(&commands).acquire_owned().await {
        let saves = next_batch(&mut waiting).await;
        if saves.is_empty() {
            return;
        }
        let (pool, script) = (Arc::clone(&pool), Arc::clone(&script));
        tokio::spawn(async move {
            send(&pool, &script, saves).await;
            drop(command);
        });
    }
}

/// Waits for saves. Returns none when the writer has been dropped.
///
/// When the first save arrives, others are about to be submitted. So requests that are ready to run do that first. With
/// two commands in progress, this lowers Redis' CPU time of a save under load from 12.3 to 11 µs, at 2 to 7 % more requests.
async fn next_batch(waiting: &mut mpsc::UnboundedReceiver<Save>) -> Vec<Save> {
    let mut saves = Vec::new();
    while saves.is_empty() && waiting.recv_many(&mut saves, MAX_BATCH).await > 0 {
        yield_now().await;
        let room = MAX_BATCH - saves.len();
        saves.extend((0..room).map_while(|_| waiting.try_recv().ok()));
        // A save whose request has been dropped has not been sent yet, and need not be.
        saves.retain(|save| !save.done.is_closed());
    }
    saves
}

async fn send(pool: &Pool, script: &Script, saves: Vec<Save>) {
    let number = i64::try_from(saves.len()).unwrap_or(i64::MAX);
    let mut command_arguments = vec![Value::String(script.sha1().clone()), Value::Integer(number)];
    let mut arguments = Vec::with_capacity(3 * saves.len());
    let mut waiting = Vec::with_capacity(saves.len());
    for save in saves {
        command_arguments.push(save.key.into());
        arguments.extend(save.arguments.map(|argument| Value::Bytes(argument.into())));
        waiting.push(save.done);
    }
    command_arguments.append(&mut arguments);
    let command = CustomCommand::new_static("EVALSHA", None::<u16>, false);
    let sent = match pool.client().await {
        Ok(client) => client.custom(command, command_arguments).await,
        Err(error) => Err(error),
    };
    match sent {
        Ok(Value::Array(results)) if results.len() == waiting.len() => {
            for (done, result) in waiting.into_iter().zip(results) {
                let _ = done.send(Ok(result));
            }
        }
        Ok(_) => fail(waiting, "Redis did not respond to each save"),
        Err(error) => {
            // After a restart, Redis has no scripts. The sessions retry their saves.
            if is_unknown_script(&error)
                && let Err(error) = load(pool, script).await
            {
                tracing::debug!(%error, "the script could not be loaded");
            }
            fail(waiting, &error.to_string());
        }
    }
}

fn fail(waiting: Vec<oneshot::Sender<session_store::Result<Value>>>, reason: &str) {
    for done in waiting {
        let _ = done.send(Err(backend(reason)));
    }
}

/// Loads the script into Redis, so that it can be called by its hash.
async fn load(pool: &Pool, script: &Script) -> Result<(), Error> {
    let lua = script.lua().cloned().unwrap_or_default();
    let command = CustomCommand::new_static("SCRIPT", None::<u16>, false);
    let command_arguments = vec![Value::from("LOAD"), Value::String(lua)];
    pool.client()
        .await?
        .custom(command, command_arguments)
        .await
}
