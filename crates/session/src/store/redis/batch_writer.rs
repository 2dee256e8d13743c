//! Carries the saves of many sessions to Redis in one command: what is asked for while a command is
//! on its way goes together with the next. Under load that saves both sides most of their work; one
//! save alone goes as fast as without.

use std::sync::Arc;

use fred::{
    error::Error,
    prelude::ClientLike,
    types::{CustomCommand, Value, scripts::Script},
};
use tokio::sync::{mpsc, oneshot};
use tower_sessions::session_store;

use super::{backend, is_unknown_script, pool::Pool};

/// The most saves in one command, so that others don't wait long for Redis.
const TOGETHER: usize = 64;

const COMPARE_AND_SWAP_ALL: &str = include_str!("lua/compare_and_swap_all.lua");

/// One save, as Redis takes it, and who waits for it.
#[derive(Debug)]
struct Save {
    key: String,
    arguments: [Vec<u8>; 3],
    done: oneshot::Sender<session_store::Result<Value>>,
}

/// Takes saves, for as long as it lives.
#[derive(Debug)]
pub struct BatchWriter {
    saves: mpsc::UnboundedSender<Save>,
}

impl BatchWriter {
    /// Begins to write over these connections.
    ///
    /// # Errors
    /// When Redis does not take the script.
    pub async fn start(pool: &Arc<Pool>) -> Result<Self, Error> {
        let (saves, waiting) = mpsc::unbounded_channel();
        let script = Script::from_lua(COMPARE_AND_SWAP_ALL);
        load(pool, &script).await?;
        tokio::spawn(write_batches(Arc::clone(pool), script, waiting));
        Ok(Self { saves })
    }

    /// Saves the record of `key`: the old bytes, the new ones, and when those expire. Returns 1, or the
    /// value that is there instead.
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

/// Sends what waits, one command after the other, until nobody can ask any more; two commands at a
/// time were no faster.
async fn write_batches(
    pool: Arc<Pool>,
    script: Script,
    mut waiting: mpsc::UnboundedReceiver<Save>,
) {
    let mut saves = Vec::new();
    while waiting.recv_many(&mut saves, TOGETHER).await > 0 {
        // Who has hung up meanwhile has not been saved, and need not be.
        saves.retain(|save| !save.done.is_closed());
        if !saves.is_empty() {
            send(&pool, &script, std::mem::take(&mut saves)).await;
        }
    }
}

async fn send(pool: &Pool, script: &Script, saves: Vec<Save>) {
    let number = i64::try_from(saves.len()).unwrap_or(i64::MAX);
    let mut words = vec![Value::String(script.sha1().clone()), Value::Integer(number)];
    let mut arguments = Vec::with_capacity(3 * saves.len());
    let mut waiting = Vec::with_capacity(saves.len());
    for save in saves {
        words.push(save.key.into());
        arguments.extend(save.arguments.map(|argument| Value::Bytes(argument.into())));
        waiting.push(save.done);
    }
    words.append(&mut arguments);
    let command = CustomCommand::new_static("EVALSHA", None::<u16>, false);
    let sent = match pool.client().await {
        Ok(client) => client.custom(command, words).await,
        Err(error) => Err(error),
    };
    match sent {
        Ok(Value::Array(results)) if results.len() == waiting.len() => {
            for (done, result) in waiting.into_iter().zip(results) {
                let _ = done.send(Ok(result));
            }
        }
        Ok(_) => fail(waiting, "Redis did not answer for each save"),
        Err(error) => {
            // A Redis that has been restarted knows no scripts; the sessions try again at once.
            if is_unknown_script(&error)
                && let Err(error) = load(pool, script).await
            {
                tracing::debug!(%error, "the script could not be loaded");
            }
            fail(waiting, &error.to_string());
        }
    }
}

fn fail(waiting: Vec<oneshot::Sender<session_store::Result<Value>>>, why: &str) {
    for done in waiting {
        let _ = done.send(Err(backend(why)));
    }
}

/// Has Redis keep the script, to be called by its hash.
async fn load(pool: &Pool, script: &Script) -> Result<(), Error> {
    let lua = script.lua().cloned().unwrap_or_default();
    let command = CustomCommand::new_static("SCRIPT", None::<u16>, false);
    let words = vec![Value::from("LOAD"), Value::String(lua)];
    pool.client().await?.custom(command, words).await
}
