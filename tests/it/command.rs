//! The command line: its output, and its exit status.

use crate::support::{Backend, Engine, Server, binary, console, output_of};

/// Runs the binary to its end, and returns its exit status, its output and its error output.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = binary(folder.path());
    command
        .args(arguments)
        .env("LEPTOS_SITE_ADDR", "127.0.0.1:0")
        .env("TALLY_METRICS", "off")
        .envs(variables.iter().copied());
    let output = output_of(&mut command);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn help_and_version_are_printed() {
    let (code, out, _) = run(&["--help"], &[]);
    assert_eq!(code, Some(0));
    assert!(out.contains("Usage: tally"));
    let (code, out, _) = run(&["--version"], &[]);
    assert_eq!(code, Some(0));
    assert_eq!(out, format!("tally {}\n", env!("CARGO_PKG_VERSION")));
    for wrong in [
        &["--nonsense"][..],
        &["nonsense"],
        &["check"],
        &["serve", "migrate"],
    ] {
        let (code, _, err) = run(wrong, &[]);
        assert_eq!(code, Some(2), "{wrong:?}");
        assert!(
            err.starts_with("error: ") && err.contains("--help"),
            "{err}"
        );
    }
}

#[test]
fn each_command_has_help_and_completions() {
    let commands = [
        "serve",
        "migrate",
        "clearsessions",
        "sign-in-link",
        "hash-password",
        "check",
    ];
    let (_, completions, _) = run(&["completions", "bash"], &[]);
    for command in commands {
        let (code, out, _) = run(&[command, "--help"], &[]);
        assert_eq!(code, Some(0), "{command}");
        assert!(out.contains(&format!("Usage: tally {command}")), "{out}");
        assert!(out.contains("--settings <FILE>"), "{out}");
        assert!(completions.contains(command), "{command} is not completed");
    }
}

#[test]
fn a_wrong_setting_ends_the_start_with_one_line() {
    let wrong = [
        ("LEPTOS_SITE_ADDR", "nowhere", "site.address"),
        ("SESSION_STORE", "mysql://x", "sessions.store"),
        ("SESSION_STORE", "sqlite://", "sessions.store"),
        ("REDIS_URL", "http://:secret@x", "REDIS_URL"),
        ("SESSION_COOKIE_AGE", "0", "sessions.cookie_age"),
        ("SESSION_COOKIE_AGE", "two weeks", "sessions.cookie_age"),
        ("SESSION_COOKIE_AGE", "-1", "sessions.cookie_age"),
        (
            "SESSION_EXPIRE_AT_BROWSER_CLOSE",
            "perhaps",
            "sessions.expire_at_browser_close",
        ),
        ("SESSION_COOKIE_NAME", "a b", "sessions.cookie_name"),
        ("SESSION_COOKIE_NAME", "__Host-id", "sessions.cookie_name"),
        ("SESSION_COOKIE_NAME", "__Secure-id", "sessions.cookie_name"),
        ("SESSION_COOKIE_DOMAIN", "a;b", "sessions.cookie_domain"),
        ("SESSION_COOKIE_PATH", "here", "sessions.cookie_path"),
        ("SESSION_COOKIE_SECURE", "maybe", "sessions.cookie_secure"),
        (
            "SESSION_COOKIE_HTTPONLY",
            "maybe",
            "sessions.cookie_httponly",
        ),
        (
            "SESSION_COOKIE_SAMESITE",
            "loose",
            "sessions.cookie_samesite",
        ),
        (
            "SESSION_COOKIE_SAMESITE",
            "None",
            "sessions.cookie_samesite",
        ),
        ("SESSION_UNCONFIRMED_AGE", "0", "sessions.unconfirmed_age"),
        (
            "SESSION_SAVE_EVERY_REQUEST",
            "maybe",
            "sessions.save_every_request",
        ),
        ("SESSION_IDLE_AGE", "-5", "sessions.idle_age"),
        ("SESSION_ABSOLUTE_AGE", "long", "sessions.absolute_age"),
        ("SESSION_STORE", "memcached://a b", "sessions.store"),
        ("SESSION_STORE", "memcached://a,b", "sessions.store"),
        ("SESSION_STORE_PREFIX", "a b", "sessions.store_prefix"),
        ("TALLY_STORE_WAIT", "long", "server.store_wait"),
        ("TALLY_KEEP_ALIVE_TIMEOUT", "0", "server.keep_alive_timeout"),
        ("SESSION_STORE", "file://", "sessions.store"),
        ("SESSION_STORE", "redis://:secret@:x", "sessions.store"),
        ("TALLY_HSTS_AGE", "ever", "security.hsts_age"),
        ("TALLY_BODY_LIMIT", "0", "server.body_limit"),
        ("TALLY_REQUEST_TIMEOUT", "0", "server.request_timeout"),
        (
            "TALLY_TRUSTED_ORIGINS",
            "shop.example",
            "security.trusted_origins",
        ),
        ("TALLY_LOG", "loud", "server.log"),
        ("TALLY_LOG_FORMAT", "xml", "server.log_format"),
        ("TALLY_METRICS", "9464", "server.metrics"),
        ("TALLY_DRAIN_DELAY", "soon", "server.drain_delay"),
        ("TALLY_NEW_SESSIONS", "0", "security.new_sessions"),
        (
            "TALLY_NEW_SESSIONS_PER_SECOND",
            "5000000000",
            "security.new_sessions_per_second",
        ),
        (
            "TALLY_TRUSTED_PROXIES",
            "10.0.0.0/40",
            "security.trusted_proxies",
        ),
        ("SESSION_STORE_REPLICAS", "-1", "sessions.store_replicas"),
    ];
    for (name, value, setting) in wrong {
        let (code, _, err) = run(&[], &[(name, value)]);
        assert_eq!(code, Some(1), "{name}={value}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.contains(setting) && err.contains(name), "{err}");
        assert!(!err.contains("secret"), "{err}");
    }
}

#[test]
fn a_wrong_settings_file_ends_the_start_with_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    for (text, said) in [
        ("[sessions]\ncookie_aeg = 1\n", "sessions.cookie_aeg"),
        ("[session]\ncookie_age = 1\n", "[session]"),
        ("[sessions\n", "is not TOML"),
        ("[sessions]\ncookie_age = \"x\"\n", "sessions.cookie_age"),
    ] {
        let file = folder.path().join("wrong.toml");
        std::fs::write(&file, text).expect("a file");
        let (code, _, err) = run(&["--settings", &file.display().to_string()], &[]);
        assert_eq!(code, Some(1));
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.contains(said) && err.contains("wrong.toml"), "{err}");
    }
    let (code, _, err) = run(&["--settings", "/nowhere/tally.toml"], &[]);
    assert_eq!(code, Some(1));
    assert!(err.contains("can't be read"), "{err}");
}

#[test]
fn a_taken_port_or_a_missing_store_ends_the_start_with_one_line() {
    let server = Server::start(Engine::Memory);
    let (code, _, err) = run(&[], &[("LEPTOS_SITE_ADDR", &server.address())]);
    assert_eq!(code, Some(1));
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.contains("can't listen"), "{err}");
    for store in ["redis://:secret@127.0.0.1:1", "sqlite:///proc/nowhere/x"] {
        let (code, _, err) = run(&[], &[("SESSION_STORE", store), ("TALLY_STORE_WAIT", "0")]);
        assert_eq!(code, Some(1));
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(
            err.contains("can't be reached") && !err.contains("secret"),
            "{err}"
        );
    }
}

#[test]
fn both_signals_stop_the_server_cleanly() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(Engine::Memory);
        assert_eq!(server.stop(signal).code(), Some(0), "{signal}");
    }
}

#[test]
fn the_site_is_inside_the_binary() {
    let server = Server::start(Engine::Memory);
    let page = server.get("/nowhere").send().body;
    for (ending, kind) in [
        (".js", "text/javascript"),
        (".wasm", "application/wasm"),
        (".css", "text/css"),
    ] {
        let at = page
            .split('"')
            .find(|part| part.starts_with("/pkg/tally") && part.ends_with(ending));
        let path = at.expect("the page names its files");
        for (accepted, encoding) in [
            ("br", Some("br")),
            ("gzip", Some("gzip")),
            ("identity", None),
        ] {
            let file = server.get(path).header("accept-encoding", accepted).send();
            assert_eq!(file.status, 200, "{path}");
            assert!(
                file.header("content-type")
                    .is_some_and(|it| it.starts_with(kind)),
                "{path}"
            );
            assert_eq!(file.header("content-encoding"), encoding, "{path}");
            assert!(
                file.header("cache-control")
                    .is_some_and(|it| it.contains("immutable")),
                "{path}"
            );
        }
    }
    let icon = server.get("/icon.svg").send();
    let tag = icon.header("etag").expect("an ETag").to_owned();
    let again = server.get("/icon.svg").header("if-none-match", &tag).send();
    assert_eq!(again.status, 304);
}

#[test]
fn migrate_creates_the_table_or_reports_that_there_is_none() {
    for (store, said) in [
        (
            "sqlite://new/sessions.sqlite3",
            "the sessions table is up to date",
        ),
        ("memory:", "nothing to do"),
        ("file://sessions", "nothing to do"),
    ] {
        let (code, out, err) = run(&["migrate"], &[("SESSION_STORE", store)]);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains(said), "{out}");
    }
    let (code, _, err) = run(&["migrate"], &[("SESSION_STORE", "redis://127.0.0.1:1")]);
    assert_eq!(code, Some(1));
    assert_eq!(err.lines().count(), 1, "{err}");
}

#[test]
fn check_deploy_lists_unsafe_settings() {
    let (code, out, _) = run(&["check", "--deploy"], &[("SESSION_STORE", "memory:")]);
    assert_eq!(code, Some(1));
    for problem in [
        "not Secure",
        "loopback",
        "memory store",
        "host",
        "plain http",
    ] {
        assert!(out.contains(problem), "{problem}: {out}");
    }
    let redis = Backend::redis(&[]);
    let store = format!("redis://127.0.0.1:{}", redis.port);
    let production = |store: &str| {
        run(
            &["check", "--deploy"],
            &[
                ("SESSION_STORE", store),
                ("LEPTOS_SITE_ADDR", "0.0.0.0:80"),
                ("TALLY_ALLOWED_HOSTS", "shop.example"),
                ("TALLY_HSTS_AGE", "31536000"),
            ],
        )
    };
    let (code, out, _) = production(&store);
    assert_eq!(code, Some(1));
    assert!(out.contains("append-only"), "{out}");
    let (code, out, _) = production("redis://:secret@127.0.0.1:1");
    assert_eq!(code, Some(1));
    assert!(
        out.contains("can't be reached") && !out.contains("secret"),
        "{out}"
    );
    redis.ask(&["config", "set", "appendonly", "yes"]);
    let (code, out, _) = production(&store);
    assert_eq!((code, out.lines().count()), (Some(0), 1), "{out}");
    let (code, _, err) = run(&["check"], &[]);
    assert_eq!(code, Some(2), "{err}");
}

#[test]
fn both_files_name_the_same_address() {
    let table = |text: &str| text.parse::<toml::Table>().expect("TOML");
    let cargo = table(include_str!("../../Cargo.toml"));
    let leptos = table(include_str!("../../Leptos.toml"));
    assert_eq!(
        cargo["package"]["metadata"]["leptos"]["site-addr"],
        leptos["site"]["address"]
    );
}

#[test]
fn a_sign_in_link_has_the_address_of_the_site() {
    let link = |store, variables: &[(&str, &str)]| {
        run(
            &["sign-in-link"],
            &[&[("SESSION_STORE", store)], variables].concat(),
        )
    };
    let hash = ("TALLY_CONSOLE_PASSWORD_HASH", console::HASH.as_str());
    let files = "file://sessions";
    for (site, begins) in [
        (
            ("TALLY_SITE_URL", "https://shop.example/"),
            "https://shop.example/",
        ),
        (("LEPTOS_SITE_ADDR", "127.0.0.1:80"), "http://127.0.0.1:80/"),
        // A server that listens on all addresses doesn't know its own, so the link is only a path.
        (("LEPTOS_SITE_ADDR", "0.0.0.0:80"), "/"),
    ] {
        let (code, out, _) = link(files, &[hash, site]);
        assert_eq!(code, Some(0));
        let token = out.strip_prefix(&format!("{begins}admin?pass="));
        assert_eq!(token.map(|token| token.trim_end().len()), Some(32), "{out}");
    }
    for (store, variables, expected) in [
        ("memory:", &[hash][..], "no command reaches"),
        (files, &[], "console.password_hash"),
    ] {
        let (code, out, why) = link(store, variables);
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(why.contains(expected) && why.lines().count() == 1, "{why}");
    }
}
