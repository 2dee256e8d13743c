//! Puts the site into the server's binary: what cargo-leptos built, and public/.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// What the page asks for; the browser's build makes them.
const BUILT: [&str; 3] = ["pkg/tally.css", "pkg/tally.js", "pkg/tally.wasm"];

/// Stands where a file is still to be built; memory-serve passes over empty ones.
const PLACEHOLDER: &str = "\n";

fn main() {
    // The browser's half is built by the same script, and has nothing to embed.
    if env::var_os("CARGO_FEATURE_SSR").is_none() {
        return;
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let site = root.join(env::var("LEPTOS_SITE_ROOT").unwrap_or_else(|_| "target/site".to_owned()));
    println!("cargo::rerun-if-env-changed=LEPTOS_SITE_ROOT");
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if release {
        let missing = BUILT.iter().find(|file| !is_built(&site.join(file)));
        assert!(
            missing.is_none(),
            "there is no site to put into the server yet; run: make release"
        );
    } else if let Err(error) = lay_out(&root.join("public"), &site) {
        println!("cargo::warning=can't lay out {}: {error}", site.display());
    }
    memory_serve::load_directory(site);
}

/// A debug server reads the files from disk, but learns their names here, and `watch` builds both
/// halves at the same time: so the names are laid out before the files are there.
fn lay_out(public: &Path, site: &Path) -> io::Result<()> {
    fs::create_dir_all(site.join("pkg"))?;
    for file in BUILT {
        let file = site.join(file);
        if !is_built(&file) {
            fs::write(file, PLACEHOLDER)?;
        }
    }
    for entry in fs::read_dir(public)? {
        let entry = entry?;
        let copy = site.join(entry.file_name());
        if !copy.exists() {
            fs::copy(entry.path(), copy)?;
        }
    }
    Ok(())
}

fn is_built(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.len() > PLACEHOLDER.len() as u64)
}
