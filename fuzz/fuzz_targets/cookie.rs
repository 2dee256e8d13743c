//! For any `Cookie` headers, the parser returns at most a few well-formed ids, each of which occurs in the input.
#![no_main]

use axum::http::{HeaderMap, HeaderValue, header::COOKIE};
use libfuzzer_sys::fuzz_target;
use tally_session::{Config, SessionId, cookie};

fuzz_target!(|bytes: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, value);
        }
    }
    let sent = cookie::sent(&headers, None, &Config::default());
    assert!(sent.ids.len() <= 4);
    assert!(sent.any || sent.ids.is_empty());
    for id in sent.ids {
        let value = id.cookie_value();
        assert!(
            bytes
                .windows(value.len())
                .any(|part| part == value.as_bytes())
        );
        assert_eq!(SessionId::parse(value.as_bytes()), Some(id));
    }
});
