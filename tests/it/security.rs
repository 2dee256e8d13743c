//! Attacks and how the server withstands them. The tests of malformed cookies are in session.rs.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::support::{self, Databases, Engine, Server, cookie_of, until};

/// Sends a request unchanged, and returns everything that the server sends before it closes the connection.
fn raw(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).expect("connected");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).expect("a response");
    String::from_utf8_lossy(&response).into_owned()
}

#[test]
fn a_session_cannot_be_planted() {
    let databases = Databases::shared();
    for engine in Engine::ALL {
        let server = Server::start_in(&databases, engine, |setup| setup);
        let planted = "sessionid=00112233445566778899aabbccddeeff";
        for (method, path) in [("GET", "/"), ("POST", "/api/visit")] {
            let response = server.request(method, path).cookie(planted).send();
            let given = cookie_of(response.header("set-cookie").expect("a new session"));
            assert_ne!(given, planted);
            assert_eq!(
                server.stored_visits(planted),
                0,
                "the planted id has a session"
            );
            assert_eq!(server.stored_visits(&given), 1);
        }
    }
}

#[test]
fn no_form_content_type_crosses_sites() {
    let server = Server::start(Engine::Memory);
    let cookie = server.new_session();
    let kinds = [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "application/json",
        "",
    ];
    let origins = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "CROSS-SITE"),
        ("sec-fetch-site", ""),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1"),
        ("origin", "http://127.0.0.1:1"),
        ("origin", ""),
    ];
    let calls = ["visit", "reset", "theme", "draft", "extend", "delete"];
    for call in calls {
        for kind in kinds {
            for (name, value) in origins {
                let response = server
                    .request("POST", &format!("/api/{call}"))
                    .cookie(&cookie)
                    .header("content-type", kind)
                    .header(name, value)
                    .body("theme=dark&draft=x")
                    .send();
                assert_eq!(response.status, 403, "{call} {kind} {name}: {value}");
                assert_eq!(response.header("set-cookie"), None);
            }
        }
    }
    // A GET changes nothing, wherever it comes from.
    for call in calls {
        let response = server.get(&format!("/api/{call}")).cookie(&cookie).send();
        assert!((400..500).contains(&response.status), "{call}");
    }
    assert_eq!(server.stored_visits(&cookie), 1);
}

#[test]
fn a_forged_origin_is_refused() {
    let server = Server::start_as(Engine::Memory, |setup| {
        setup.set("TALLY_TRUSTED_ORIGINS", "https://shop.example")
    });
    let status = |headers: &[(&str, &str)]| {
        let request = server.post("/api/visit");
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(name, value)
        });
        request.send().status
    };
    let own = format!("http://{}", server.address());
    assert_eq!(status(&[("origin", &own)]), 200);
    assert_eq!(status(&[("origin", "https://shop.example")]), 200);
    // Sec-Fetch-Site outweighs Origin, because scripts can't set it.
    let both = [("origin", own.as_str()), ("sec-fetch-site", "cross-site")];
    assert_eq!(status(&both), 403);
    for forged in [
        "https://shop.example.evil.example",
        "https://shop.example:444",
        "http://shop.example",
        "https://shop.example@evil.example",
        "https://evil.example/https://shop.example",
        &format!("{own}.evil.example"),
        &format!("http://evil.example@{}", server.address()),
    ] {
        assert_eq!(status(&[("origin", forged)]), 403, "{forged}");
    }
}

#[test]
fn tossed_cookies_hide_no_session() {
    let server = Server::start(Engine::Memory);
    let own = server.new_session();
    let mut visits = 1;
    for tossed in [
        "sessionid=ffffffffffffffffffffffffffffffff",
        "sessionid=",
        "sessionid=\"\"",
        "sessionid=x; sessionid=y; sessionid=z",
        "sessionid=ffffffffffffffffffffffffffffffff; sessionid=eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee; \
         sessionid=dddddddddddddddddddddddddddddddd",
        "sessionid=a; other=\"; sessionid=b",
        "a=b; sessionid=x",
    ] {
        for cookies in [format!("{tossed}; {own}"), format!("{own}; {tossed}")] {
            visits += 1;
            let response = server.get("/").cookie(&cookies).send();
            assert_eq!(response.visits(), visits, "{cookies}");
            let given = response.header("set-cookie").map(cookie_of);
            assert_eq!(given.as_ref(), Some(&own));
        }
    }
    let quoted = format!("sessionid=\"{}\"", &own["sessionid=".len()..]);
    let response = server.get("/").cookie(&quoted).send();
    assert_eq!(response.visits(), visits + 1);
}

#[test]
fn a_forged_host_header_has_no_effect() {
    let server = Server::start_as(Engine::Memory, |setup| {
        setup.set("TALLY_ALLOWED_HOSTS", "shop.example,[::1]")
    });
    let status = |head: &str| {
        let response = raw(&server, &format!("{head}\r\nConnection: close\r\n\r\n"));
        response.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: shop.example", "200"),
        ("GET / HTTP/1.1\r\nHost: SHOP.example:3000", "200"),
        ("GET / HTTP/1.1\r\nHost: [::1]:3000", "200"),
        ("GET / HTTP/1.1\r\nHost: [::1]", "200"),
        (
            "GET http://shop.example/ HTTP/1.1\r\nHost: shop.example",
            "200",
        ),
        ("GET / HTTP/1.1\r\nHost: evil.example", "421"),
        ("GET / HTTP/1.1\r\nHost: shop.example.evil.example", "421"),
        (
            "GET / HTTP/1.1\r\nHost: shop.example:80@evil.example",
            "421",
        ),
        (
            "GET / HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: shop.example",
            "421",
        ),
        ("GET / HTTP/1.1\r\nHost: ", "421"),
        ("GET / HTTP/1.0", "421"),
        // Health checks address the server by its IP address.
        ("GET /health/live HTTP/1.1\r\nHost: 10.0.0.7", "200"),
        ("GET /health/ready HTTP/1.0", "200"),
        (
            "GET / HTTP/1.1\r\nHost: shop.example\r\nHost: evil.example",
            "400",
        ),
        (
            "GET http://evil.example/ HTTP/1.1\r\nHost: shop.example",
            "400",
        ),
    ] {
        assert_eq!(status(head), expected, "{head}");
    }
}

#[test]
fn no_path_leaves_the_site() {
    let server = Server::start(Engine::Memory);
    // A server that served its own folder, or the folder above it, would serve these files.
    let (folder, secret) = (server.folder(), "not part of the site");
    let above = tempfile::NamedTempFile::new_in(folder.parent().expect("a folder"));
    let mut above = above.expect("a file");
    above.write_all(secret.as_bytes()).expect("written");
    let above = above.path().file_name().expect("a name").display();
    for planted in ["Leptos.toml", "data/sessions.sqlite3", ".git/config"] {
        let file = folder.join(planted);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, secret).expect("written");
    }
    for path in [
        "/pkg/../Leptos.toml",
        "/pkg/..%2fLeptos.toml",
        "/pkg/../../../../etc/passwd",
        "/pkg/%2e%2e/%2e%2e/etc/passwd",
        "/pkg/..%2f..%2fetc%2fpasswd",
        "/pkg/..%5c..%5cetc%5cpasswd",
        "/..%252f..%252fetc/passwd",
        "//etc/passwd",
        "/pkg//etc/passwd",
        "/pkg/tally.css/../../data/sessions.sqlite3",
        "/pkg/%00",
        "/Leptos.toml",
        "/data/sessions.sqlite3",
        "/.git/config",
        &format!("/../{above}"),
        &format!("/pkg/../../{above}"),
        &format!("/pkg/..%2f..%2f{above}"),
    ] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let response = raw(&server, &request);
        assert!(response.starts_with("HTTP/1.1 404"), "{path}: {response}");
        assert!(!response.contains("root:"), "{path}");
        assert!(!response.contains(secret), "{path}");
    }
}

#[test]
fn a_response_cannot_be_split() {
    let server = Server::start(Engine::Memory);
    let cookie = server.new_session();
    let injected = "%0d%0aSet-Cookie:%20stolen=1%0d%0a%0d%0a<script>";
    let plain = |response: &str| {
        assert!(response.starts_with("HTTP/1.1 "), "{response}");
        let head = response.split("\r\n\r\n").next().unwrap_or_default();
        assert!(!head.to_lowercase().contains("stolen"), "{head}");
    };
    for target in [
        format!("/{injected}"),
        format!("/about/{injected}"),
        format!("/about?next={injected}"),
        format!("/reset/?{injected}"),
    ] {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        plain(&raw(&server, &request));
    }
    // These headers and the body may influence the headers of the response.
    for (name, value) in [
        ("referer", format!("http://localhost/{injected}")),
        ("x-request-id", injected.to_owned()),
        ("x-forwarded-for", injected.to_owned()),
    ] {
        let response = server
            .post("/api/draft")
            .cookie(&cookie)
            .header("accept", "text/html")
            .header(name, &value)
            .body(&format!("draft={name}{injected}"))
            .send();
        assert_eq!(response.status, 303);
        let location = response.header("location").expect("a location");
        assert!(location.starts_with('/'), "{location}");
        assert_eq!(
            response.header("set-cookie").map(cookie_of),
            Some(cookie.clone())
        );
    }
}

#[test]
fn visitor_input_is_escaped() {
    let server = Server::start(Engine::Memory);
    let cookie = server.new_session();
    let draft = "draft=%0a%3C/textarea%3E%3Cscript%3Ealert(1)%3C/script%3E%26lt;";
    let kept = server.post("/api/draft").cookie(&cookie).body(draft).send();
    assert_eq!(kept.status, 200);
    let page = server.get("/about").cookie(&cookie).send().body;
    let shown = "\n\n&lt;/textarea>&lt;script>alert(1)&lt;/script>&amp;lt;</textarea>";
    assert!(page.contains(shown), "{page}");
}

#[test]
fn a_form_redirects_only_within_the_site() {
    let server = Server::start(Engine::Memory);
    for (referer, location) in [
        ("https://evil.example/", "/"),
        ("https://evil.example/about", "/about"),
        ("https://evil.example//evil.example", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("http://localhost/about?__err=Zm9yZ2Vk", "/about"),
        ("", "/"),
    ] {
        let response = server
            .post("/api/visit")
            .header("accept", "text/html")
            .header("referer", referer)
            .send();
        assert_eq!(response.status, 303, "{referer}");
        // The parameter keeps the counter's page from counting the visit again.
        let location = if location == "/" {
            "/?counted="
        } else {
            location
        };
        assert_eq!(response.header("location"), Some(location), "{referer}");
    }
}

#[test]
fn a_flood_of_new_sessions_is_limited_and_blocks_no_existing_session() {
    let limited = |setup: support::Setup| {
        setup
            .set("TALLY_NEW_SESSIONS", "50")
            .set("TALLY_NEW_SESSIONS_PER_SECOND", "1")
            .set("TALLY_TRUSTED_PROXIES", "127.0.0.1")
    };
    let server = Server::start_as(Engine::Redis, limited);
    let from = |address: &str, cookie: &str| {
        let request = server.get("/").cookie(cookie);
        request.header("x-forwarded-for", address).send()
    };
    let began = Instant::now();
    let first = from("192.0.2.1", "");
    let own = cookie_of(first.header("set-cookie").expect("a cookie"));
    let responses: Vec<_> = (0..200).map(|_| from("192.0.2.1", "")).collect();
    let mut made = responses
        .iter()
        .filter(|response| response.status == 200)
        .count();
    // The allowance grows by one each second.
    let grown = began.elapsed().as_secs() as usize;
    assert!((49..=49 + grown).contains(&made), "{made} and {grown} s");
    let mut refusals = 200 - made;
    let mut until_refused = |ask: &dyn Fn() -> support::Response| {
        until(|| match ask() {
            response if response.status == 429 => {
                refusals += 1;
                Some(response)
            }
            response => {
                assert_eq!(response.status, 200);
                made += 1;
                None
            }
        })
    };
    let refused = until_refused(&|| from("192.0.2.1", ""));
    assert!(refused.body.contains("Too many new sessions"));
    assert_eq!(refused.header("set-cookie"), None);
    let seconds: u64 = refused
        .header("retry-after")
        .and_then(|value| value.parse().ok())
        .expect("seconds");
    assert!((1..=2).contains(&seconds), "{seconds}");
    // A call of a server function is refused, too.
    let call = until_refused(&|| {
        let call = server.post("/api/visit");
        call.header("x-forwarded-for", "192.0.2.1").send()
    });
    assert!(call.header("retry-after").is_some());
    // Reading creates no session. Existing sessions still work, and so do other addresses.
    assert_eq!(
        server
            .get("/about")
            .header("x-forwarded-for", "192.0.2.1")
            .send()
            .status,
        200
    );
    assert_eq!(from("192.0.2.1", &own).visits(), 2);
    assert_eq!(from("192.0.2.2", "").status, 200);
    // An address that the visitor puts before the proxy's own entry has no effect.
    until_refused(&|| from("192.0.2.9, 192.0.2.1", ""));
    assert_eq!(
        server.metric("tally_sessions_refused_total"),
        refusals as f64
    );
    let stored: usize = server.backend().ask(&["dbsize"]).parse().expect("a number");
    assert_eq!(stored, made + 2);
}

#[test]
fn without_trusted_proxies_no_client_chooses_its_address() {
    let server = Server::start_as(Engine::Memory, |setup| {
        setup
            .set("TALLY_NEW_SESSIONS", "5")
            .set("TALLY_NEW_SESSIONS_PER_SECOND", "1")
    });
    let statuses: Vec<_> = (0..40)
        .map(|number| {
            let address = format!("192.0.2.{number}");
            let request = server.get("/").header("x-forwarded-for", &address);
            request.send().status
        })
        .collect();
    assert!(statuses.contains(&429), "{statuses:?}");
}
