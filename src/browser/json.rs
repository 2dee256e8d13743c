//! A JSON encoding for server functions, which the browser decodes with serde-json-core.
//!
//! serde_json formats unexpected values in its error messages, even floating-point numbers. That adds 18 KB (Brotli) to
//! each first visit. serde-json-core has no error messages. The server encodes with serde_json.

use std::fmt::Display;

use bytes::Bytes;
use leptos::server_fn::{ContentType, Decodes, Encodes, Format, FormatType, codec::Post};
use serde::{Serialize, de::DeserializeOwned};

/// The output encoding of a server function: `#[server(output = Json)]`.
pub type Json = Post<JsonEncoding>;

/// The encoding of the results and errors of server functions.
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

    /// Encodes a value. Always fails in the browser, which never encodes JSON.
    fn encode(value: &T) -> Result<Bytes, String> {
        #[cfg(feature = "ssr")]
        let encoded = serde_json::to_vec(value).map(Bytes::from).map_err(text);
        #[cfg(not(feature = "ssr"))]
        let encoded = {
            let _ = value;
            Err(text("only the server encodes JSON"))
        };
        encoded
    }
}

impl<T: DeserializeOwned> Decodes<T> for JsonEncoding {
    type Error = String;

    fn decode(bytes: Bytes) -> Result<T, String> {
        from_slice(&bytes).ok_or_else(|| text("invalid JSON"))
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Decodes a value. Returns `None` if the text is not valid JSON for this type.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    // Large enough for every string in the text.
    let mut unescaped = vec![0; text.len()];
    let (value, _) = serde_json_core::from_slice_escaped(text, &mut unescaped).ok()?;
    Some(value)
}
