//! Requests of one session on this server take turns: comparing can then only fail against
//! another server. A queue exists only while somebody stands in it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tower_sessions::session::Id;

/// The queues of the sessions that are being changed right now.
#[derive(Debug, Default)]
pub struct Queue {
    busy: Mutex<HashMap<Id, Arc<AsyncMutex<()>>>>,
}

/// One request's turn; the next one follows when it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    queue: &'a Queue,
    id: Id,
    held: Option<OwnedMutexGuard<()>>,
}

impl Queue {
    /// Waits for the session's turn.
    pub async fn turn(&self, id: Id) -> Turn<'_> {
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(busy.entry(id).or_default())
        };
        // The turn exists before it is waited for: a request that is cancelled here leaves the queue too.
        let mut turn = Turn {
            queue: self,
            id,
            held: None,
        };
        turn.held = Some(lock.lock_owned().await);
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.held = None;
        let mut busy = self
            .queue
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if busy
            .get(&self.id)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            busy.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_follow_each_other_and_an_idle_queue_is_gone() {
        let queue = Queue::default();
        let id = Id(7);
        let first = queue.turn(id).await;
        let mut second = Box::pin(queue.turn(id));
        tokio::select! {
            biased;
            _ = &mut second => panic!("the second came before its turn"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        drop(second.await);
        assert!(queue.busy.lock().expect("not poisoned").is_empty());
    }
}
