//! Puts the site into the server's binary: what cargo-leptos built, and public/.

fn main() {
    // The browser's half is built by the same script, and has nothing to embed.
    if std::env::var_os("CARGO_FEATURE_SSR").is_none() {
        return;
    }
    let site = std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default())
        .join(std::env::var("LEPTOS_SITE_ROOT").unwrap_or_else(|_| "target/site".to_owned()));
    // A check without a site still compiles; the server then says that it has none.
    if let Err(error) = std::fs::create_dir_all(&site) {
        println!("cargo::warning=can't make {}: {error}", site.display());
    }
    println!("cargo::rerun-if-changed={}", site.display());
    memory_serve::load_directory(site);
}
