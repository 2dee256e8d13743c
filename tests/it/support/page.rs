//! An open page: a client of a session's stream of events.

use std::{
    io::{BufRead, BufReader, ErrorKind},
    net::TcpStream,
    time::Instant,
};

use super::{DEADLINE, Server};
use tally::client_session::{ClientSession, SessionEvent};

/// An open page, which reads a session's stream of events.
pub struct Page {
    lines: BufReader<TcpStream>,
    pub head: String,
}

impl Page {
    pub fn open(server: &Server, cookie: &str) -> Self {
        Self::of(server.stream("/live", cookie))
    }

    pub fn of(stream: TcpStream) -> Self {
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = lines.read_line(&mut head).expect("a head");
            assert_ne!(read, 0, "{head}");
        }
        let head = head.to_lowercase();
        Self { lines, head }
    }

    pub fn status(&self) -> &str {
        self.head.split(' ').nth(1).expect("a status")
    }

    /// The next event. `None`: the stream has ended.
    pub fn next(&mut self) -> Option<SessionEvent> {
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                // A killed server resets the connection.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                // A stream that only falls silent has not ended.
                Err(error) => panic!("the stream neither continues nor ends: {error}"),
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).expect("an event"));
            }
            if line == "0\r\n" {
                return None;
            }
        }
    }

    /// Reads up to the first state that meets the condition, and returns it.
    pub fn until(&mut self, condition: impl Fn(&ClientSession) -> bool) -> ClientSession {
        let give_up = Instant::now() + DEADLINE;
        loop {
            match self.next() {
                Some(SessionEvent::State(snapshot)) if condition(&snapshot) => return *snapshot,
                // The heartbeats keep the read from timing out.
                Some(SessionEvent::State(_) | SessionEvent::Heartbeat)
                    if Instant::now() < give_up => {}
                other => panic!("unexpected event: {other:?}"),
            }
        }
    }

    pub fn until_visits(&mut self, visits: u64) -> ClientSession {
        self.until(|snapshot| snapshot.visitor.visits == visits)
    }

    pub fn until_ended(&mut self) {
        self.until_last(&SessionEvent::Ended);
    }

    /// Reads up to this event, which must be the last one.
    pub fn until_last(&mut self, last: &SessionEvent) {
        let give_up = Instant::now() + DEADLINE;
        while self.next().expect("an event before the stream ends") != *last {
            assert!(Instant::now() < give_up, "no event was {last:?}");
        }
        assert_eq!(self.next(), None);
    }
}
