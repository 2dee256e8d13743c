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
    println!("cargo::rustc-check-cfg=cfg(site_embedded)");
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let is_there = BUILT.iter().all(|file| is_built(&site.join(file)));
    let embeds = release && is_there;
    if embeds {
        println!("cargo::rustc-cfg=site_embedded");
    } else if let Err(error) = lay_out(&root.join("public"), &site) {
        println!("cargo::warning=can't lay out {}: {error}", site.display());
    }
    if release && !is_there {
        // `cargo leptos build` builds both halves at the same time.
        println!(
            "cargo::warning=the site is not built yet, so this server will read it from {}; `make release` puts it inside",
            site.display()
        );
    }
    if let Err(error) = remove_declarations(&site.join("pkg")) {
        println!("cargo::warning=can't tidy {}: {error}", site.display());
    }
    memory_serve::load_directory_with_embed(site, embeds);
}

/// A server without the site inside reads the files from disk, but learns their names here, and `watch` builds both
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

/// wasm-bindgen lays declarations for TypeScript beside its glue. No page asks for them.
fn remove_declarations(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".d.ts") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn is_built(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.len() > PLACEHOLDER.len() as u64)
}
