//! For any settings file, the parser accepts the file or reports an error of one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tally::server::settings::Settings;

fuzz_target!(|text: &str| {
    if let Err(error) = Settings::from_text(text, "Leptos.toml", |_| None) {
        assert_eq!(error.to_string().lines().count(), 1);
    }
});
