//! A session state of values by string keys.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Session, SessionError, SessionState};

/// A state of values by string keys, as in other session libraries.
///
/// Prefer a state of your own type, which the compiler checks. Each method changes the newest record, so concurrent
/// requests lose no update here either.
///
/// ```
/// # use tally_session::{Map, Session, SessionError};
/// # async fn handler(session: Session<Map>) -> Result<(), SessionError> {
/// session.insert("colour", "blue").await?;
/// let colour: Option<String> = session.get("colour").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Map(serde_json::Map<String, Value>);

impl Map {
    /// The values.
    pub fn values(&self) -> &serde_json::Map<String, Value> {
        &self.0
    }

    /// The values, for changing them in [`Session::update`].
    pub fn values_mut(&mut self) -> &mut serde_json::Map<String, Value> {
        &mut self.0
    }
}

impl SessionState for Map {}

impl Session<Map> {
    /// Returns the value of a key. `None`: there is none.
    ///
    /// # Errors
    /// [`SessionError::Decode`] if the value has another type. Also when the store fails.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, SessionError> {
        let values = self.read().await?;
        decode(values.0.get(key).cloned())
    }

    /// Sets the value of a key. Creates a session if there is none.
    ///
    /// # Errors
    /// [`SessionError::Encode`] if the value can't be serialized to JSON. Otherwise as [`Session::update`].
    pub async fn insert(&self, key: &str, value: impl Serialize) -> Result<(), SessionError> {
        let (key, value) = (key.to_owned(), serde_json::to_value(value)?);
        let insert = move |map: &mut Map| _ = map.0.insert(key.clone(), value.clone());
        self.update(insert).await
    }

    /// Removes a key. It is not an error if there is no such key.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn remove(&self, key: &str) -> Result<(), SessionError> {
        let key = key.to_owned();
        self.update(move |map| _ = map.0.remove(&key)).await
    }

    /// Removes a key and returns its value. Of several concurrent requests, only one gets the value.
    ///
    /// # Errors
    /// [`SessionError::Decode`] if the value has another type. It is removed nevertheless. Otherwise as
    /// [`Session::update`].
    pub async fn pop<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, SessionError> {
        let key = key.to_owned();
        decode(self.update(move |map| map.0.remove(&key)).await?)
    }

    /// Removes all keys. The session keeps its id.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn clear(&self) -> Result<(), SessionError> {
        self.update(|map| map.0.clear()).await
    }
}

fn decode<T: DeserializeOwned>(value: Option<Value>) -> Result<Option<T>, SessionError> {
    let decoded = value.map(serde_json::from_value).transpose();
    decoded.map_err(|error| SessionError::Decode(Arc::new(error)))
}
