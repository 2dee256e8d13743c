//! Signs in to the operator's console and reads its pages.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    sync::LazyLock,
    time::Instant,
};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};

use super::{DEADLINE, Response, Server, Setup, cookie_of, until};

pub const PASSWORD: &str = "correct horse battery staple";

/// Hashes a password with parameters that are quick to verify, to keep the tests fast.
pub fn hash(password: &str) -> String {
    let params = Params::new(8, 1, 1, None).expect("parameters");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.as_bytes())
        .expect("a hash")
        .to_string()
}

/// One hash for all servers of a test, because a server with another hash ends every sign-in.
pub static HASH: LazyLock<String> = LazyLock::new(|| hash(PASSWORD));

pub fn with_console(setup: Setup) -> Setup {
    setup.set("TALLY_CONSOLE_PASSWORD_HASH", &HASH)
}

pub fn behind_a_proxy(setup: Setup) -> Setup {
    with_console(setup).set("TALLY_TRUSTED_PROXIES", "127.0.0.1")
}

pub fn form(password: &str) -> String {
    format!("account=operator&password={}", password.replace(' ', "+"))
}

/// Submits the sign-in form.
pub fn try_password(server: &Server, cookie: &str, password: &str) -> Response {
    let request = server.post("/admin").cookie(cookie);
    request.body(&form(password)).send()
}

/// Submits the sign-in form from an address that a proxy reports.
pub fn try_from(server: &Server, address: &str, cookie: &str, password: &str) -> Response {
    let request = server.post("/admin").cookie(cookie);
    let request = request.header("x-forwarded-for", address);
    request.body(&form(password)).send()
}

/// Signs in, and returns the operator's cookie.
pub fn sign_in(server: &Server, cookie: &str) -> String {
    let response = try_password(server, cookie, PASSWORD);
    assert_eq!(response.status, 303, "{}", response.body);
    assert_eq!(response.header("location"), Some("/admin"));
    cookie_of(response.header("set-cookie").expect("a cookie"))
}

/// Loads a page of the console with the cookie of a signed-in operator.
pub fn page(server: &Server, path: &str, cookie: &str) -> String {
    let response = server.get(path).cookie(cookie).send();
    assert_eq!(response.status, 200, "{path}: {}", response.body);
    assert!(!is_sign_in(&response.body), "{path} asks to sign in");
    response.body
}

pub fn is_sign_in(body: &str) -> bool {
    body.contains("<h1>Sign in</h1>")
}

/// The response's body without its nonces, which differ each time.
pub fn without_nonce(response: &Response) -> String {
    let mut body = response.body.clone();
    while let Some((front, rest)) = body.split_once("nonce=\"") {
        let (_, rest) = rest.split_once('"').expect("its end");
        body = format!("{front}nonce{rest}");
    }
    body
}

/// The short ids of the sessions in a list, in the list's order.
pub fn short_ids(list: &str) -> Vec<String> {
    let links = list.split("href=\"/admin/sessions/").skip(1);
    let short_id = |link: &str| link.split('"').next().map(str::to_owned);
    links.filter_map(short_id).collect()
}

/// The short ids of the sessions that the operator can revoke: all but the operator's own.
pub fn others(list: &str) -> Vec<String> {
    let mut short_ids = short_ids(list);
    short_ids.retain(|short_id| list.contains(&format!("Revoke {short_id}")));
    short_ids
}

/// The number on one of the overview's tiles.
pub fn tile(overview: &str, name: &str) -> u64 {
    let tile = overview.split_once(&format!("<dt>{name}</dt><dd>"));
    let (_, rest) = tile.unwrap_or_else(|| panic!("no {name}"));
    let digits = rest.split('<').next().unwrap_or_default().replace(',', "");
    digits
        .parse()
        .unwrap_or_else(|_| panic!("{name}: {digits}"))
}

/// Waits until a tile of the overview shows this number.
pub fn until_tile(server: &Server, cookie: &str, name: &str, expected: u64) {
    until(|| (tile(&page(server, "/admin", cookie), name) == expected).then_some(()));
}

/// Waits until the overview shows about this many active sessions. The server only estimates their number.
pub fn until_visitors(server: &Server, cookie: &str, expected: u64) {
    until(|| {
        let seen = tile(&page(server, "/admin", cookie), "active sessions today");
        (seen.abs_diff(expected) <= expected / 20).then_some(())
    });
}

/// A stream of server-sent events.
pub struct Stream {
    lines: BufReader<TcpStream>,
}

impl Stream {
    pub fn open(server: &Server, path: &str, cookie: &str) -> Self {
        Self {
            lines: BufReader::new(server.stream(path, cookie)),
        }
    }

    /// Reads up to the first line that contains `text`, and returns that line.
    pub fn until(&mut self, text: &str) -> String {
        let give_up = Instant::now() + DEADLINE;
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).expect("within the time");
            assert_ne!(read, 0, "the stream ended before {text}");
            // The heartbeats keep the read from timing out.
            assert!(Instant::now() < give_up, "no line contained {text}");
            if line.contains(text) {
                return line;
            }
        }
    }
}
