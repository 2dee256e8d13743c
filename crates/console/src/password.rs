//! The operator's password: the application's settings have its Argon2id hash.

use std::{
    fmt,
    io::{self, BufRead, IsTerminal},
    sync::Arc,
};

use argon2::{
    Algorithm, Argon2,
    password_hash::{self, PasswordHasher, PasswordVerifier, phc},
};
use thiserror::Error;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// The shortest password, in characters. The same that NIST asks for where a password stands alone
/// (SP 800-63B-4, 3.1.1.2).
pub const SHORTEST: usize = 15;

/// Why no hash was made, in one line.
#[derive(Debug, Error)]
pub enum HashError {
    #[error("the password can't be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error(
        "the password has {0} characters; {SHORTEST} are the fewest, and a few words are easy to keep"
    )]
    TooShort(usize),
    #[error("the two passwords differ")]
    Differ,
    #[error("the password can't be hashed: {0}")]
    Hash(#[from] password_hash::Error),
}

/// A password's hash in the standard form (`$argon2id$v=19$…`). Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Arc<str>);

impl PasswordHash {
    /// Reads a hash; `None` where it is not one of Argon2id.
    pub fn parse(text: &str) -> Option<Self> {
        let hash = phc::PasswordHash::new(text).ok()?;
        let whole = hash.salt.is_some() && hash.hash.is_some();
        let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok();
        (whole && algorithm == Some(Algorithm::Argon2id)).then(|| Self(text.into()))
    }

    /// The hash of a password, with a salt of its own. Takes some 19 MiB and a few hundredths of a second, on purpose.
    ///
    /// # Errors
    /// When the password has fewer than [`SHORTEST_PASSWORD`](crate::SHORTEST_PASSWORD) characters.
    pub fn of(password: &str) -> Result<Self, HashError> {
        Ok(Self(hash(password)?.into()))
    }

    /// Whether the password is the one. Takes some 19 MiB and a few hundredths of a second, on
    /// purpose; the hash itself says how much.
    fn is_of(&self, password: &str) -> bool {
        phc::PasswordHash::new(&self.0).is_ok_and(|hash| {
            Argon2::default()
                .verify_password(password.as_bytes(), &hash)
                .is_ok()
        })
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PasswordHash(…)")
    }
}

/// Compares passwords, one at a time: a flood of them takes one processor and 19 MiB.
#[derive(Debug)]
pub struct Verifier {
    hash: PasswordHash,
    one: Arc<Semaphore>,
}

impl Verifier {
    pub fn new(hash: PasswordHash) -> Self {
        Self {
            hash,
            one: Arc::new(Semaphore::new(1)),
        }
    }

    pub fn hash(&self) -> &PasswordHash {
        &self.hash
    }

    /// Whether the password is the operator's.
    pub async fn is_right(&self, password: String) -> bool {
        let Ok(turn) = Arc::clone(&self.one).acquire_owned().await else {
            return false;
        };
        let hash = self.hash.clone();
        let compared = spawn_blocking(move || {
            // Kept to the end, whether or not anybody still waits for it.
            let _turn = turn;
            hash.is_of(&password)
        });
        compared.await.unwrap_or(false)
    }
}

/// Asks for a password, twice on a terminal and unseen, else reads one line; returns its hash.
///
/// # Errors
/// Why there is none.
pub fn ask_and_hash() -> Result<String, HashError> {
    let password = if io::stdin().is_terminal() {
        let password = rpassword::prompt_password("Password: ")?;
        if rpassword::prompt_password("Once more: ")? != password {
            return Err(HashError::Differ);
        }
        password
    } else {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    hash(&password)
}

fn hash(password: &str) -> Result<String, HashError> {
    let length = password.chars().count();
    if length < SHORTEST {
        return Err(HashError::TooShort(length));
    }
    Ok(Argon2::default()
        .hash_password(password.as_bytes())?
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_right_password_is_right_and_no_other() {
        let password = "correct horse battery staple";
        let text = hash(password).expect("a hash");
        assert!(
            text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{text}"
        );
        assert_ne!(
            text,
            hash(password).expect("a hash"),
            "each has its own salt"
        );
        let hash = PasswordHash::parse(&text).expect("a hash");
        assert!(!format!("{hash:?}").contains("argon2id"));
        let verifier = Verifier::new(hash);
        assert!(verifier.is_right(password.to_owned()).await);
        for wrong in [
            "",
            "correct horse battery staplE",
            "correct horse battery staple ",
        ] {
            assert!(!verifier.is_right(wrong.to_owned()).await, "{wrong:?}");
        }
    }

    #[test]
    fn only_whole_hashes_of_argon2id_are_hashes() {
        let text = hash("correct horse battery staple").expect("a hash");
        assert!(PasswordHash::parse(&text).is_some());
        let without_hash = text.rsplit_once('$').map_or("", |(front, _)| front);
        for wrong in [
            "",
            "correct horse battery staple",
            without_hash,
            &text.replace("argon2id", "argon2i"),
            &text.replace("argon2id", "bcrypt"),
        ] {
            assert!(PasswordHash::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn short_passwords_are_refused() {
        assert!(matches!(
            hash("fourteen chars"),
            Err(HashError::TooShort(14))
        ));
    }
}
