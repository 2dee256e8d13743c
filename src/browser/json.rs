//! JSON, read in the browser by serde-json-core, which has no text for its errors.
//!
//! serde_json formats what it did not expect, floating-point numbers too: 18 KB more of Brotli for each first visit. The
//! server writes with serde_json.

use std::fmt::Display;

use bytes::Bytes;
use leptos::server_fn::{ContentType, Decodes, Encodes, Format, FormatType, codec::Post};
use serde::{Serialize, de::DeserializeOwned};

/// What server functions return: `#[server(output = Json)]`.
pub type Json = Post<JsonEncoding>;

/// The encoding of what server functions return, and of their errors.
#[derive(Clone, Copy, Debug)]
pub struct JsonEncoding;

impl ContentType for JsonEncoding {
    const CONTENT_TYPE: &'static str = "application/json";
}

impl FormatType for JsonEncoding {
    const FORMAT_TYPE: Format = Format::Text;
}

impl<T: Serialize> Encodes<T> for JsonEncoding {
    type Error = String;

    /// Only a server writes.
    fn encode(value: &T) -> Result<Bytes, String> {
        #[cfg(feature = "ssr")]
        let encoded = serde_json::to_vec(value).map(Bytes::from).map_err(text);
        #[cfg(not(feature = "ssr"))]
        let encoded = {
            let _ = value;
            Err(text("only a server writes JSON"))
        };
        encoded
    }
}

impl<T: DeserializeOwned> Decodes<T> for JsonEncoding {
    type Error = String;

    fn decode(bytes: Bytes) -> Result<T, String> {
        from_slice(&bytes).ok_or_else(|| text("this is no such JSON"))
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Reads a value; `None`: the text holds no such value.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    // No string in it is longer than the whole.
    let mut unescaped = vec![0; text.len()];
    let (value, _) = serde_json_core::from_slice_escaped(text, &mut unescaped).ok()?;
    Some(value)
}
