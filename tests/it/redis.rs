//! Redis with Sentinel, with TLS, and with replicas, each with real servers.

use std::process::Command;

use crate::support::{Backend, Server, binary, free_port, output_of, redis_cli, until};

#[test]
fn sentinel_fails_over_when_the_master_dies() {
    sentinel_replaces_a_master_that(Backend::kill);
}

#[test]
fn sentinel_fails_over_when_the_master_falls_silent() {
    sentinel_replaces_a_master_that(|master| master.signal("STOP"));
}

fn sentinel_replaces_a_master_that(ends: impl Fn(&Backend)) {
    let master = Backend::redis(&[]);
    let master_port = master.port;
    let replica = Backend::redis(&[]);
    replica.ask(&["replicaof", "127.0.0.1", &master_port.to_string()]);
    until(|| {
        replica
            .ask(&["info", "replication"])
            .contains("master_link_status:up")
            .then_some(())
    });
    let sentinel = Backend::start(move |folder, port| {
        let settings = folder.join("sentinel.conf");
        if !settings.exists() {
            let text = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor tally 127.0.0.1 {master_port} 1\n\
                 sentinel down-after-milliseconds tally 60000\nsentinel failover-timeout tally 2000\n"
            );
            std::fs::write(&settings, text).expect("written");
        }
        let mut command = Command::new("redis-server");
        command.arg(settings).arg("--sentinel");
        command
    });
    let knows =
        |what: &str| redis_cli(sentinel.port, &["sentinel", "replicas", "tally"]).contains(what);
    until(|| knows(&replica.port.to_string()).then_some(()));
    let store = format!(
        "redis-sentinel://127.0.0.1:{}/?sentinelServiceName=tally",
        sentinel.port
    );
    let server = Server::on(&store, |setup| setup);
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    assert_eq!(server.log(), "", "a healthy start must log nothing");
    // Only what has reached the replica survives.
    until(|| (replica.ask(&["dbsize"]) == "1").then_some(()));
    let offset = || {
        master
            .ask(&["info", "replication"])
            .contains("lag=0")
            .then_some(())
    };
    until(offset);
    ends(&master);
    // The short time-out is set only now, or Sentinel could take a slow master for a dead one.
    let impatient = "sentinel set tally down-after-milliseconds 300";
    let words: Vec<_> = impatient.split(' ').collect();
    assert_eq!(redis_cli(sentinel.port, &words), "OK");
    let response = until(|| {
        let response = server.post("/api/visit").cookie(&cookie).send();
        (response.status == 200).then_some(response)
    });
    assert_eq!(response.count(), Some(3));
    assert!(
        replica
            .ask(&["info", "replication"])
            .contains("role:master")
    );
}

#[test]
fn redis_over_tls_needs_a_trusted_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = folder.path().join("certificate.pem");
    let key = folder.path().join("key.pem");
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let (with_certificate, with_key) = (certificate.clone(), key);
    let tls_port = free_port();
    let _redis = Backend::start(move |folder, port| {
        let mut command = Command::new("redis-server");
        command
            .args([
                "--port",
                &port.to_string(),
                "--tls-port",
                &tls_port.to_string(),
            ])
            .args(["--bind", "127.0.0.1", "--tls-auth-clients", "no", "--dir"])
            .arg(folder)
            .arg("--tls-cert-file")
            .arg(&with_certificate)
            .arg("--tls-key-file")
            .arg(&with_key);
        command
    });
    let store = format!("rediss://localhost:{tls_port}");
    let trusted = certificate.display().to_string();
    let server = Server::on(&store, |setup| setup.set("SSL_CERT_FILE", &trusted));
    let cookie = server.new_session();
    assert_eq!(server.visit(&cookie), 2);
    // The certificate is not trusted here, so the server must not start.
    let mut command = binary(folder.path());
    command
        .env("LEPTOS_SITE_ADDR", "127.0.0.1:0")
        .env("TALLY_STORE_WAIT", "0")
        .env("SESSION_STORE", &store);
    let output = output_of(&mut command);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("can't be reached"), "{said}");
    assert!(said.contains("UnknownIssuer"), "{said}");
}

#[test]
fn a_write_waits_for_its_replicas() {
    let master = Backend::redis(&[]);
    let replica = Backend::redis(&[]);
    replica.ask(&["replicaof", "127.0.0.1", &master.port.to_string()]);
    let linked = || {
        let replication = replica.ask(&["info", "replication"]);
        replication.contains("master_link_status:up").then_some(())
    };
    until(linked);
    let store = format!("redis://127.0.0.1:{}", master.port);
    let server = Server::on(&store, |setup| setup.set("SESSION_STORE_REPLICAS", "1"));
    let cookie = server.until_new_session();
    assert_eq!(server.visit(&cookie), 2);
    replica.signal("STOP");
    let response = server.post("/api/visit").cookie(&cookie).send();
    assert_eq!(response.status, 503);
    let nobody = server.get("/").send();
    assert_eq!((nobody.status, nobody.header("set-cookie")), (503, None));
    replica.signal("CONT");
    let visits = until(|| {
        let response = server.post("/api/visit").cookie(&cookie).send();
        (response.status == 200).then(|| response.count().expect("a number"))
    });
    // The visit that got a 503 may be in the count, because its write reached the master.
    assert!((3..=4).contains(&visits), "{visits}");
    assert_eq!(server.stored_visits(&cookie), visits);
}
