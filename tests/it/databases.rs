//! PostgreSQL and MariaDB as operators run them: rights, schemas, poolers, TLS, sockets, and a full disk.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::support::{
    self, Backend, Server, binary, console, output_of,
    postgres::{chown, initialize},
    until,
};

/// The rights that a database user needs, from docs/operations.md. 0: PostgreSQL, 1: MariaDB.
fn documented_grants(database: usize) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let docs = std::fs::read_to_string(docs).expect("the docs");
    let block = docs.split("```sql\n").nth(database + 1).expect("a block");
    let block = block.split("```").next().expect("its end");
    block.to_owned()
}

/// Starts a server that must fail, and returns its error output.
fn refusal(store: &str, table: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = binary(folder.path());
    command
        .env("LEPTOS_SITE_ADDR", "127.0.0.1:0")
        .env("TALLY_STORE_WAIT", "0")
        .env("SESSION_STORE", store)
        .env("SESSION_STORE_TABLE", table);
    let ended = output_of(&mut command);
    assert_eq!(ended.status.code(), Some(1));
    String::from_utf8(ended.stderr).expect("text")
}

/// Uses a database in every way beside its owner, as a user who may not create tables.
fn assert_rights_suffice(owner: &Server, url: &str, denied: &str) {
    let server = Server::on(url, console::with_console);
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    assert_eq!(owner.visit(&cookie), 3);
    let operator = console::sign_in(&server, "");
    console::until_tile(&server, &operator, "visits today", 2);
    assert_eq!(
        server.command(&["clearsessions"]),
        "0 expired sessions removed"
    );
    let migrated = server.command(&["migrate"]);
    assert!(migrated.contains("is up to date"), "{migrated}");
    let refused = refusal(url, "another");
    assert!(refused.contains(denied), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
}

#[test]
fn a_postgres_user_with_the_documented_rights_is_enough() {
    let postgres = Backend::postgres(&[]);
    let owner = Server::on(&postgres.url(), |setup| setup);
    postgres.sql(&documented_grants(0));
    let url = postgres.url().replace("tally@", "tally_server@");
    assert_rights_suffice(&owner, &url, "permission denied");
}

#[test]
fn check_deploy_finds_a_postgres_that_may_lose_sessions_and_a_pool_that_is_too_large() {
    let postgres = Backend::postgres(&["synchronous_commit=off"]);
    let server = Server::on(&postgres.url(), |setup| {
        setup.set("SESSION_STORE_CONNECTIONS", "500")
    });
    let listed = server.problems(&[]);
    for setting in ["synchronous_commit off", "fsync off", "max_connections"] {
        assert!(listed.contains(setting), "{setting}: {listed}");
    }
    assert!(
        !listed.contains("sslmode"),
        "a local connection needs no TLS: {listed}"
    );
}

#[test]
fn migrate_creates_a_table_in_another_schema() {
    let postgres = Backend::postgres(&[]);
    let server = Server::on(&postgres.url(), |setup| {
        setup.set("SESSION_STORE_TABLE", "web.sessions")
    });
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    assert_eq!(postgres.sql("select count(*) from web.sessions"), "1");
    assert_eq!(postgres.sql("select to_regclass('tower_sessions')"), "");
}

#[test]
fn a_pooler_in_transaction_mode_is_refused_with_one_line() {
    let postgres = Backend::postgres(&[]);
    let pooler = Backend::pooler(postgres.port, "session");
    let server = Server::on(&postgres.url_at(pooler.port), |setup| setup);
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    let pooler = Backend::pooler(postgres.port, "transaction");
    let refused = refusal(&postgres.url_at(pooler.port), "tower_sessions");
    assert!(
        refused.contains("a pooler in transaction mode"),
        "{refused}"
    );
    assert_eq!(refused.lines().count(), 1, "{refused}");
}

/// Creates a MariaDB user with the documented rights only, and returns the URL to connect as that user.
fn restricted_user(mariadb: &Backend) -> String {
    mariadb.mysql(&documented_grants(1));
    mariadb.url().replace("root@", "tally_server:%E2%80%A6@")
}

#[test]
fn a_mariadb_user_with_the_documented_rights_is_enough() {
    let mariadb = Backend::mariadb(&[]);
    let owner = Server::on(&mariadb.url(), |setup| setup);
    let url = restricted_user(&mariadb);
    assert_rights_suffice(&owner, &url, "command denied");
}

#[test]
fn a_read_only_mariadb_is_reported_and_refused_at_the_start() {
    let mariadb = Backend::mariadb(&[]);
    let owner = Server::on(&mariadb.url(), |setup| setup);
    let url = restricted_user(&mariadb);
    let server = Server::on(&url, |setup| setup);
    let cookie = server.new_session();
    mariadb.mysql("set global read_only = 1");
    let refused = server.post("/api/visit").cookie(&cookie).send();
    assert_eq!(refused.status, 503);
    until(|| {
        let ready = server.get("/health/ready").send();
        (ready.status == 503 && ready.body == "readonly\n").then_some(())
    });
    let refused = refusal(&url, "tower_sessions");
    assert!(refused.contains("name the primary"), "{refused}");
    mariadb.mysql("set global read_only = 0");
    assert_eq!(
        until(|| server.post("/api/visit").cookie(&cookie).send().count()),
        2
    );
    assert_eq!(owner.stored_visits(&cookie), 2);
}

#[test]
fn check_deploy_finds_a_mariadb_that_may_lose_sessions_and_a_pool_that_is_too_large() {
    let mariadb = Backend::mariadb(&["--innodb-flush-log-at-trx-commit=2"]);
    let server = Server::on(&mariadb.url(), |setup| {
        setup.set("SESSION_STORE_CONNECTIONS", "500")
    });
    let listed = server.problems(&[]);
    for setting in ["innodb_flush_log_at_trx_commit 2", "max_connections"] {
        assert!(listed.contains(setting), "{setting}: {listed}");
    }
    assert!(
        !listed.contains("ssl-mode"),
        "a local connection needs no TLS: {listed}"
    );
}

#[test]
fn migrate_creates_a_table_in_another_database() {
    let mariadb = Backend::mariadb(&[]);
    let server = Server::on(&mariadb.url(), |setup| {
        setup.set("SESSION_STORE_TABLE", "web.sessions")
    });
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    assert_eq!(mariadb.mysql("select count(*) from web.sessions"), "1");
    assert_eq!(mariadb.mysql("show tables from tally"), "");
}

/// Creates a certificate for `localhost` and its key, in files that the database can read.
fn certificate(folder: &Path, certificate: &str, key: &str) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = folder.join(key);
    let certificate = folder.join(certificate);
    fs::write(&certificate, made.cert.pem()).expect("written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("private");
    chown(&certificate);
    chown(&key);
}

#[test]
fn postgres_works_over_a_socket_and_over_tls_with_a_trusted_certificate() {
    let postgres = Backend::postgres_in(&["ssl=on", "unix_socket_directories=."], |data| {
        initialize(data);
        certificate(data, "server.crt", "server.key");
        let rules = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";
        fs::write(data.join("pg_hba.conf"), rules).expect("written");
    });
    let (port, data) = (postgres.port, postgres.folder.path().join("data"));
    let tls = format!("postgres://tally@localhost:{port}/postgres?sslmode=verify-full");
    let trusted = format!("{tls}&sslrootcert={}", data.join("server.crt").display());
    let socket = format!(
        "postgres:///postgres?host={}&port={port}&user=tally",
        data.display()
    );
    let cookie = Server::on(&trusted, |setup| setup).new_session();
    assert_eq!(Server::on(&socket, |setup| setup).visit(&cookie), 2);
    let plain = format!("postgres://tally@localhost:{port}/postgres?sslmode=disable");
    for refused in [plain, tls] {
        let refused = refusal(&refused, "tower_sessions");
        assert!(refused.contains("can't be reached"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
}

#[test]
fn mariadb_works_over_a_socket_and_over_tls_with_a_trusted_certificate() {
    let options = &["--ssl-cert=../certificate.pem", "--ssl-key=../key.pem"];
    let mariadb = Backend::mariadb_in(options, |folder| {
        certificate(folder, "certificate.pem", "key.pem");
    });
    mariadb.mysql("create user secure require ssl; grant all on tally.* to secure");
    let (port, folder) = (mariadb.port, mariadb.folder.path());
    let tls = format!("mariadb://secure@localhost:{port}/tally?ssl-mode=VERIFY_IDENTITY");
    let trusted = format!("{tls}&ssl-ca={}", folder.join("certificate.pem").display());
    let socket = folder.join("socket");
    let socket = format!("mariadb://root@localhost/tally?socket={}", socket.display());
    let cookie = Server::on(&trusted, |setup| setup).new_session();
    assert_eq!(Server::on(&socket, |setup| setup).visit(&cookie), 2);
    let plain = format!("mariadb://secure@localhost:{port}/tally?ssl-mode=DISABLED");
    for refused in [plain, tls] {
        let refused = refusal(&refused, "tower_sessions");
        assert!(refused.contains("can't be reached"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
}

#[test]
fn a_full_disk_of_the_database_refuses_new_sessions_and_loses_none() {
    for database in [
        Backend::postgres_on_disk("96m"),
        Backend::mariadb_on_disk("80m"),
    ] {
        let server = Server::on(&database.url(), |setup| setup);
        let cookie = server.new_session();
        assert_eq!(server.visit(&cookie), 2);
        database.fill_disk();
        let mut created = Vec::new();
        // A database accepts sessions as long as its log has room.
        let refused = (0..100_000).find_map(|_| {
            let page = server.get("/").send();
            match page.header("set-cookie") {
                Some(cookie) => created.push(support::cookie_of(cookie)),
                None => return Some(page),
            }
            None
        });
        let refused = refused.expect("a full disk");
        assert_eq!(refused.status, 503, "{}", database.url());
        assert!(refused.header("retry-after").is_some());
        assert!(server.log().contains("reason=disk"), "{}", server.log());
        assert_eq!(server.stored_visits(&cookie), 2);
        for cookie in &created {
            assert_eq!(server.stored_visits(cookie), 1);
        }
        database.make_room();
        let after = until(|| {
            let page = server.get("/").send();
            page.header("set-cookie").map(support::cookie_of)
        });
        assert_eq!(server.visit(&after), 2);
        assert_eq!(server.visit(&cookie), 3);
    }
}
