//! Values by string keys, for programs that come from sessions of that kind.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Session, SessionError, SessionState};

/// Any values, by string keys.
///
/// A state of one's own type is checked by the compiler. This one is for programs that come from string keys.
/// Each change of a key is a change of the newest record, so concurrent requests lose nothing here, either.
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
    /// The values, to be read.
    pub fn values(&self) -> &serde_json::Map<String, Value> {
        &self.0
    }

    /// The values, to be changed in [`Session::update`].
    pub fn values_mut(&mut self) -> &mut serde_json::Map<String, Value> {
        &mut self.0
    }
}

impl SessionState for Map {}

impl Session<Map> {
    /// The value of a key; `None`: there is none.
    ///
    /// # Errors
    /// [`SessionError::Decode`] where it is of another type, and when the store can't be asked.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, SessionError> {
        let values = self.read().await?;
        decoded(values.0.get(key).cloned())
    }

    /// Sets the value of a key. Makes a session where there is none.
    ///
    /// # Errors
    /// When the value can't be written as JSON, and as [`Session::update`].
    pub async fn insert(&self, key: &str, value: impl Serialize) -> Result<(), SessionError> {
        let (key, value) = (key.to_owned(), serde_json::to_value(value)?);
        let insert = move |map: &mut Map| _ = map.0.insert(key.clone(), value.clone());
        self.update(insert).await
    }

    /// Removes a key. None there is no error.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn remove(&self, key: &str) -> Result<(), SessionError> {
        let key = key.to_owned();
        self.update(move |map| _ = map.0.remove(&key)).await
    }

    /// Removes a key and returns its value; of concurrent requests one gets it.
    ///
    /// # Errors
    /// [`SessionError::Decode`] where it is of another type; it is removed then. And as [`Session::update`].
    pub async fn pop<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, SessionError> {
        let key = key.to_owned();
        decoded(self.update(move |map| map.0.remove(&key)).await?)
    }

    /// Removes all keys. The session keeps its id.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn clear(&self) -> Result<(), SessionError> {
        self.update(|map| map.0.clear()).await
    }
}

fn decoded<T: DeserializeOwned>(value: Option<Value>) -> Result<Option<T>, SessionError> {
    let decoded = value.map(serde_json::from_value).transpose();
    decoded.map_err(|error| SessionError::Decode(Arc::new(error)))
}
