//! Signing in to the operator's console: who may sign in, who may not, and how a sign-in ends.

use std::{collections::BTreeSet, io::Write, process::Stdio};

use crate::support::{
    Databases, Engine, Response, Server, Setup, binary, console::*, cookie_of, output_of, until,
};

#[test]
fn without_a_password_there_is_no_console() {
    let server = Server::start(Engine::Memory);
    let unknown = server.get("/unknown").send();
    for path in ["/admin", "/admin/", "/admin/sessions", "/admin/live"] {
        let response = server.get(path).send();
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(without_nonce(&response), without_nonce(&unknown), "{path}");
        assert_eq!(response.header("vary"), unknown.header("vary"));
    }
    let response = try_password(&server, "", PASSWORD);
    assert_eq!(
        (response.status, response.header("set-cookie")),
        (404, None)
    );
}

#[test]
fn strangers_see_only_the_sign_in_page() {
    let server = Server::start_as(Engine::Memory, with_console);
    let operator = sign_in(&server, "");
    let victim = server.new_session();
    let list = page(&server, "/admin/sessions", &operator);
    let short_id = short_ids(&list).into_iter().next().expect("a session");
    let paths = [
        "/admin".to_owned(),
        "/admin/unknown".to_owned(),
        "/admin/live".to_owned(),
        "/admin/sessions".to_owned(),
        "/admin/sessions/0123456789".to_owned(),
        format!("/admin/sessions/{short_id}"),
        format!("/admin/sessions/{short_id}/revoke"),
        format!("/admin/sessions/{short_id}/reveal"),
        "/admin/revoke-others".to_owned(),
        "/admin/sign-out-everywhere".to_owned(),
    ];
    for cookie in ["", "sessionid=00112233445566778899aabbccddeeff", &victim] {
        let mut seen = BTreeSet::new();
        for path in &paths {
            for method in ["GET", "POST"] {
                let response = server.request(method, path).cookie(cookie).send();
                assert_eq!(response.status, 200, "{method} {path}");
                assert!(is_sign_in(&response.body), "{method} {path}");
                assert_eq!(response.header("x-robots-tag"), Some("noindex"));
                assert_eq!(response.header("cache-control"), Some("private, no-store"));
                let headers = ["set-cookie", "vary", "content-type", "allow"];
                let headers = headers.map(|name| response.header(name).map(str::to_owned));
                seen.insert((headers, without_nonce(&response)));
            }
        }
        assert_eq!(seen.len(), 1, "the responses differ");
    }
    assert_eq!(server.stored_visits(&victim), 1, "the session was changed");
    page(&server, "/admin", &operator);
    let slash = server.get("/admin/").send();
    assert_eq!(
        (slash.status, slash.header("location")),
        (308, Some("/admin"))
    );
}

#[test]
fn signing_in_changes_the_id_and_keeps_the_rest() {
    let databases = Databases::shared();
    for engine in Engine::ALL {
        let server = Server::start_in(&databases, engine, with_console);
        let visitor = server.new_session();
        server.visit(&visitor);
        let wrong = try_password(&server, &visitor, "incorrect horse");
        assert_eq!((wrong.status, wrong.header("set-cookie")), (403, None));
        assert!(wrong.body.contains("Wrong password."));
        let operator = sign_in(&server, &visitor);
        assert_ne!(operator, visitor);
        assert_eq!(server.stored_visits(&operator), 2);
        assert_eq!(server.stored_visits(&visitor), 0, "the old id is alive");
        assert!(is_sign_in(
            &server.get("/admin").cookie(&visitor).send().body
        ));
        page(&server, "/admin", &operator);
        // Signing out keeps the session, too, but changes its id.
        let out = server.post("/admin/sign-out").cookie(&operator).send();
        let after = cookie_of(out.header("set-cookie").expect("a cookie"));
        assert_ne!(after, operator);
        assert_eq!(server.stored_visits(&after), 2);
        // HEAD and a prefetch don't use up the message.
        server.request("HEAD", "/admin").cookie(&after).send();
        let prefetch = server.get("/admin").header("sec-purpose", "prefetch");
        prefetch.cookie(&after).send();
        let signed_out = server.get("/admin").cookie(&after).send();
        assert!(is_sign_in(&signed_out.body) && signed_out.body.contains("You have signed out."));
        let again = server.get("/admin").cookie(&after).send();
        assert!(
            !again.body.contains("You have signed out."),
            "a message must show only once"
        );
    }
}

#[test]
fn a_failed_response_signs_nobody_in() {
    let databases = Databases::shared();
    for engine in Engine::ALL {
        let server = Server::start_in(&databases, engine, Setup::probe);
        let cookie = server.new_session();
        let is_signed_in =
            |cookie: &str| server.get("/probe/signed-in").cookie(cookie).send().body == "true";
        let failed = server.post("/probe/sign-in/500").cookie(&cookie).send();
        assert_eq!((failed.status, failed.header("set-cookie")), (500, None));
        assert_eq!(server.stored_visits(&cookie), 1, "the session was lost");
        assert!(!is_signed_in(&cookie));
        let done = server.post("/probe/sign-in/200").cookie(&cookie).send();
        let after = cookie_of(done.header("set-cookie").expect("a cookie"));
        assert!(is_signed_in(&after) && !is_signed_in(&cookie));
        assert_eq!(server.stored_visits(&after), 1);
        // A visitor without a session gets one, but not from a failed response.
        let failed = server.post("/probe/sign-in/500").send();
        assert_eq!(failed.header("set-cookie"), None);
        let done = server.post("/probe/sign-in/200").send();
        assert!(is_signed_in(&cookie_of(
            done.header("set-cookie").expect("a cookie")
        )));
    }
}

#[test]
fn password_attempts_are_limited_without_locking_the_operator_out() {
    let server = Server::start_as(Engine::Memory, behind_a_proxy);
    let known = {
        let response = try_from(&server, "198.51.100.1", "", PASSWORD);
        let operator = cookie_of(response.header("set-cookie").expect("signed in"));
        let out = server.post("/admin/sign-out").cookie(&operator).send();
        cookie_of(out.header("set-cookie").expect("a cookie"))
    };
    // The limit for one address.
    for _ in 0..5 {
        assert_eq!(try_from(&server, "203.0.113.1", "", "wrong").status, 403);
    }
    let held = try_from(&server, "203.0.113.1", "", PASSWORD);
    assert_eq!(held.status, 429, "even with the right password");
    assert!(held.header("retry-after").is_some() && held.header("set-cookie").is_none());
    assert!(held.body.contains("Too many attempts."));
    // The limit for all addresses together.
    let attempt =
        |number: u32| try_from(&server, &format!("203.0.113.{number}"), "", "wrong").status;
    let refused = (2..200).find(|number| attempt(*number) == 429);
    assert!(refused >= Some(16), "refused too early: {refused:?}");
    let held = (3..).map(|number| format!("198.51.100.{number}"));
    let mut held = held.map(|address| try_from(&server, &address, "", PASSWORD).status);
    assert!(
        held.any(|status| status == 429),
        "even with the right password"
    );
    // The operator's browser is exempt from both, at any address.
    assert_eq!(
        try_from(&server, "198.51.100.3", &known, PASSWORD).status,
        303
    );
    // A flood of attempts leaves few lines in the log.
    let flood = (0..200).filter(|_| try_from(&server, "203.0.113.1", "", "wrong").status == 429);
    let (flood, log) = (flood.count(), server.log());
    let lines = log.matches("too many attempts").count();
    assert!(lines > 0 && lines < flood / 4, "{lines} of {flood}");
}

/// Asks until there have been too many requests.
fn until_refused(ask: impl Fn() -> Response) {
    until(|| (ask().status == 429).then_some(()));
}

/// Creates a sign-in link, and returns its path.
fn link(server: &Server) -> String {
    let link = server.command(&["sign-in-link"]);
    let (_, path) = link.split_once("/admin?").expect("a link");
    format!("/admin?{path}")
}

#[test]
fn a_sign_in_link_exempts_its_browser_from_the_limits() {
    for engine in [
        Engine::File,
        Engine::Sqlite,
        Engine::Memcached,
        Engine::Redis,
    ] {
        let server = Server::start_as(engine, |setup| {
            with_console(setup)
                .set("TALLY_NEW_SESSIONS", "1")
                .set("TALLY_NEW_SESSIONS_PER_SECOND", "1")
        });
        let visitor = server.new_session();
        until_refused(|| try_password(&server, "", "wrong"));
        assert_eq!(try_password(&server, &visitor, PASSWORD).status, 429);
        let link = link(&server);
        for unseen in [
            server.request("HEAD", &link),
            server.get(&link).header("sec-purpose", "prefetch"),
        ] {
            assert_eq!(
                unseen.send().status,
                200,
                "{engine:?}: the link was used up"
            );
        }
        let opened = server.get(&link).cookie(&visitor).send();
        assert_eq!(
            (opened.status, opened.header("location")),
            (303, Some("/admin"))
        );
        // The link opens only the sign-in page, and only once.
        assert!(is_sign_in(
            &server.get("/admin").cookie(&visitor).send().body
        ));
        let again = server.get(&link).send();
        assert_eq!((again.status, again.header("set-cookie")), (200, None));
        assert_eq!(try_password(&server, "", PASSWORD).status, 429);
        assert_eq!(try_password(&server, &visitor, "wrong").status, 403);
        let operator = sign_in(&server, &visitor);
        assert_eq!(server.stored_visits(&operator), 1, "{engine:?}");
        assert!(server.log().contains("sign-in link used"));
        // A link works even after a flood of new sessions from the operator's own address.
        let link = self::link(&server);
        until_refused(|| server.get("/").send());
        let opened = server.get(&link).send();
        assert_eq!(opened.status, 303, "{engine:?}");
        let known = cookie_of(opened.header("set-cookie").expect("a cookie"));
        assert_eq!(try_password(&server, &known, "wrong").status, 403);
        // A link's token opens no session, and a session's id is not a token.
        let token = self::link(&server).replace("/admin?pass=", "sessionid=");
        let visited = until(|| {
            let visited = server.post("/api/visit").cookie(&token).send();
            (visited.status == 200).then_some(visited)
        });
        let given = visited.header("set-cookie").map(cookie_of);
        assert!(
            given.is_some() && given != Some(token),
            "{engine:?}: {given:?}"
        );
        let id = operator.trim_start_matches("sessionid=");
        let tried = server.get(&format!("/admin?pass={id}")).send();
        assert_eq!((tried.status, tried.header("set-cookie")), (200, None));
        page(&server, "/admin", &operator);
    }
}

#[test]
fn sign_ins_to_different_realms_are_independent() {
    let databases = Databases::shared();
    for engine in Engine::ALL {
        let server = Server::start_in(&databases, engine, |setup| with_console(setup).probe());
        let is_member =
            |cookie: &str| server.get("/probe/signed-in").cookie(cookie).send().body == "true";
        let done = server.post("/probe/sign-in/200").send();
        let member = cookie_of(done.header("set-cookie").expect("a cookie"));
        let seen = server.get("/admin").cookie(&member).send();
        assert!(is_sign_in(&seen.body) && !seen.body.contains("has ended"));
        assert!(is_member(&member), "{engine:?}");
        // To the console, a member is a stranger, so the limits of all strangers apply.
        until_refused(|| try_password(&server, "", "wrong"));
        assert_eq!(try_password(&server, &member, PASSWORD).status, 429);
        if engine == Engine::Memory {
            continue;
        }
        server.get(&link(&server)).cookie(&member).send();
        let both = sign_in(&server, &member);
        page(&server, "/admin", &both);
        assert!(is_member(&both), "{engine:?}");
        let out = server.post("/admin/sign-out").cookie(&both).send();
        let after = cookie_of(out.header("set-cookie").expect("a cookie"));
        assert!(is_member(&after), "{engine:?}");
        assert!(is_sign_in(&server.get("/admin").cookie(&after).send().body));
    }
}

#[test]
fn a_sign_in_ends_when_it_is_not_used() {
    let server = Server::start_as(Engine::Memory, |setup| {
        with_console(setup).set("TALLY_CONSOLE_IDLE_AGE", "3")
    });
    let operator = sign_in(&server, "");
    let mut stream = Stream::open(&server, "/admin/live", &operator);
    stream.until("data-part");
    stream.until("event: ended");
    let response = server.get("/admin/sessions").cookie(&operator).send();
    assert!(is_sign_in(&response.body) && response.body.contains("not used for a while"));
    assert!(server.log().contains("sign-in ended"));
}

#[test]
fn a_sign_in_ends_at_its_maximum_age() {
    let server = Server::start_as(Engine::Memory, |setup| {
        with_console(setup).set("TALLY_CONSOLE_ABSOLUTE_AGE", "2")
    });
    let operator = sign_in(&server, "");
    let ended = until(|| {
        let response = server.get("/admin").cookie(&operator).send();
        is_sign_in(&response.body).then_some(response)
    });
    assert!(
        ended.body.contains("reached its time limit"),
        "{}",
        ended.body
    );
}

#[test]
fn signing_out_everywhere_or_a_new_password_ends_every_sign_in() {
    let databases = Databases::shared();
    for engine in Engine::ALL {
        let mut server = Server::start_in(&databases, engine, with_console);
        let (first, second) = (sign_in(&server, ""), sign_in(&server, ""));
        let mut stream = Stream::open(&server, "/admin/live", &first);
        stream.until("data-part");
        server
            .post("/admin/sign-out-everywhere")
            .cookie(&second)
            .send();
        stream.until("event: ended");
        let response = server.get("/admin").cookie(&first).send();
        assert!(is_sign_in(&response.body), "{engine:?}");
        assert!(
            response.body.contains("somebody signed out everywhere"),
            "{engine:?}"
        );
        // Sessions in memory end with their server, and no other server sees them.
        if engine == Engine::Memory {
            continue;
        }
        let third = sign_in(&server, "");
        server.restart();
        page(&server, "/admin", &third);
        let other = server.beside_as(|setup| {
            setup.set(
                "TALLY_CONSOLE_PASSWORD_HASH",
                &hash("another password altogether"),
            )
        });
        let response = other.get("/admin").cookie(&third).send();
        assert!(is_sign_in(&response.body), "{engine:?}");
        assert!(
            response.body.contains("the password has changed"),
            "{engine:?}"
        );
    }
}

/// Whether an engine can list the sessions of a user.
fn can_list(engine: Engine) -> bool {
    !matches!(engine, Engine::File | Engine::Memcached)
}

#[test]
fn operators_list_and_end_their_own_sign_ins() {
    let databases = Databases::shared();
    for engine in Engine::ALL {
        let server = Server::start_in(&databases, engine, with_console);
        let sign_in_as = |browser: &str| {
            let request = server.post("/admin").header("user-agent", browser);
            let response = request.body(&form(PASSWORD)).send();
            cookie_of(response.header("set-cookie").expect("signed in"))
        };
        let mine = sign_in_as("Mine/1.0 Firefox/140.0");
        let phone = sign_in_as("Phone/2.0");
        let list = page(&server, "/admin/sign-ins", &mine);
        if can_list(engine) {
            assert!(
                list.contains("this browser") && list.contains("127.0.0.1"),
                "{list}"
            );
            assert!(
                list.contains(">Firefox<") && list.contains(">Phone/2.0<"),
                "{list}"
            );
            let mut forms = list.split(r#"action="/admin/sign-ins/"#).skip(1);
            let short_id = forms
                .next()
                .and_then(|form| form.split('/').next())
                .expect("a form");
            let ended = server
                .post(&format!("/admin/sign-ins/{short_id}/end"))
                .cookie(&mine)
                .send();
            assert_eq!(
                (ended.status, ended.header("location")),
                (303, Some("/admin/sign-ins"))
            );
            let list = page(&server, "/admin/sign-ins", &mine);
            assert!(
                list.contains("That browser is signed out.") && !list.contains("Phone"),
                "{list}"
            );
            assert!(server.log().contains("signed out elsewhere"));
        } else {
            assert!(
                list.contains("can’t list where you are signed in"),
                "{list}"
            );
        }
        let office = sign_in_as("Office/3.0");
        server
            .post("/admin/sign-ins/end-others")
            .cookie(&mine)
            .send();
        for other in [&phone, &office] {
            assert!(
                is_sign_in(&server.get("/admin").cookie(other).send().body),
                "{engine:?}"
            );
        }
        let list = page(&server, "/admin/sign-ins", &mine);
        assert!(
            list.contains("You are signed out everywhere else."),
            "{list}"
        );
    }
}

#[test]
fn another_site_cannot_act_for_the_operator() {
    let friend = "https://friend.example";
    let server = Server::start_as(Engine::Memory, |setup| {
        with_console(setup).set("TALLY_TRUSTED_ORIGINS", friend)
    });
    let operator = sign_in(&server, "");
    let victim = server.new_session();
    for path in ["/admin", "/admin/revoke-others", "/admin/sign-out"] {
        for (name, value) in [("sec-fetch-site", "cross-site"), ("origin", friend)] {
            let request = server.post(path).cookie(&operator).body(&form(PASSWORD));
            let response = request.header(name, value).send();
            assert_eq!(
                (response.status, response.header("set-cookie")),
                (403, None)
            );
        }
    }
    // A trusted origin may send requests for visitors, but not for the operator.
    let visit = server.post("/api/visit").cookie(&victim);
    assert_eq!(visit.header("origin", friend).send().status, 200);
    assert_eq!(
        tile(&page(&server, "/admin", &operator), "sessions alive"),
        2
    );
}

#[test]
fn hash_password_prints_a_hash_that_the_settings_accept() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |typed: &str| {
        let mut process = binary(folder.path())
            .arg("hash-password")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut input = process.stdin.take().expect("piped");
        input.write_all(typed.as_bytes()).expect("sent");
        drop(input);
        let output = process.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (short, hash, why) = run("too short\n");
    assert!(
        !short && hash.is_empty() && why.contains("the minimum is 15"),
        "{why}"
    );
    let (done, hash, _) = run(&format!("{PASSWORD}\n"));
    assert!(
        done && hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
        "{hash}"
    );
    let server = Server::start_as(Engine::Memory, |setup| {
        setup.set("TALLY_CONSOLE_PASSWORD_HASH", &hash)
    });
    page(&server, "/admin", &sign_in(&server, ""));
}

#[test]
fn a_password_instead_of_its_hash_ends_the_start_and_is_not_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = binary(folder.path());
    command
        .env("TALLY_CONSOLE_PASSWORD_HASH", PASSWORD)
        .env("SESSION_STORE", "memory:");
    let output = output_of(&mut command);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        why.contains("console.password_hash") && why.contains("TALLY_CONSOLE_PASSWORD_HASH"),
        "{why}"
    );
    assert!(
        !why.contains(PASSWORD) && why.trim().lines().count() == 1,
        "{why}"
    );
}
