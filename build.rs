//! Embeds the site in the server's binary: the files that cargo-leptos has built, and those in public/.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// The files that the frontend build creates.
const BUILT: [&str; 3] = ["pkg/tally.css", "pkg/tally.js", "pkg/tally.wasm"];

/// The content of a file that is still to be built. Not empty, because memory-serve skips empty files.
const PLACEHOLDER: &str = "\n";

fn main() {
    // The frontend build runs this script, too, but embeds nothing.
    if env::var_os("CARGO_FEATURE_SSR").is_none() {
        return;
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let site = root.join(env::var("LEPTOS_SITE_ROOT").unwrap_or_else(|_| "target/site".to_owned()));
    println!("cargo::rerun-if-env-changed=LEPTOS_SITE_ROOT");
    println!("cargo::rustc-check-cfg=cfg(site_embedded)");
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let is_complete = BUILT.iter().all(|file| is_built(&site.join(file)));
    let embed = release && is_complete;
    if embed {
        println!("cargo::rustc-cfg=site_embedded");
    } else if let Err(error) = create_placeholders(&root.join("public"), &site) {
        println!(
            "cargo::warning=failed to create placeholders in {}: {error}",
            site.display()
        );
    }
    if release && !is_complete {
        // `cargo leptos build` builds the frontend and the server at the same time.
        println!(
            "cargo::warning=the site is not built yet, so this server will read it from {}; `make release` embeds it",
            site.display()
        );
    }
    if let Err(error) = remove_declarations(&site.join("pkg")) {
        println!(
            "cargo::warning=failed to remove declarations from {}: {error}",
            site.display()
        );
    }
    memory_serve::load_directory_with_embed(site, embed);
}

/// Creates the files that are still to be built, and copies public/.
///
/// A server without the embedded site reads the files from disk, but needs their names at build time. `cargo leptos
/// watch` builds the frontend at the same time, so its files may not exist yet.
fn create_placeholders(public: &Path, site: &Path) -> io::Result<()> {
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

/// Removes the TypeScript declarations that wasm-bindgen generates. No page loads them.
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
