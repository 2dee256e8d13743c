//! The operator's password, of which the application's settings hold the Argon2id hash.

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

/// The minimum length of a password, in characters.
///
/// NIST requires this length where a password is the only factor (SP 800-63B-4, 3.1.1.2).
pub const SHORTEST: usize = 15;

/// The reason why a password could not be hashed.
#[derive(Debug, Error)]
pub enum HashError {
    #[error("the password can't be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error(
        "the password has {0} characters; the minimum is {SHORTEST}, and a few words are easy to remember"
    )]
    TooShort(usize),
    #[error("the two passwords differ")]
    Differ,
    #[error("the password can't be hashed: {0}")]
    Hash(#[from] password_hash::Error),
}

/// An Argon2id hash in PHC string format (`$argon2id$v=19$…`). Its `Debug` output is redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Arc<str>);

impl PasswordHash {
    /// Parses a hash. Returns `None` if it is not a complete Argon2id hash.
    pub fn parse(text: &str) -> Option<Self> {
        let hash = phc::PasswordHash::new(text).ok()?;
        let is_complete = hash.salt.is_some() && hash.hash.is_some();
        let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok();
        (is_complete && algorithm == Some(Algorithm::Argon2id)).then(|| Self(text.into()))
    }

    /// Hashes a password with a random salt.
    ///
    /// This deliberately takes about 19 MiB of memory and a few hundredths of a second.
    ///
    /// # Errors
    /// Returns an error if the password has fewer than [`MIN_PASSWORD_LENGTH`](crate::MIN_PASSWORD_LENGTH) characters.
    pub fn of(password: &str) -> Result<Self, HashError> {
        Ok(Self(hash(password)?.into()))
    }

    /// Whether the hash is that of `password`.
    ///
    /// This deliberately takes memory and time. The parameters in the hash determine how much.
    fn matches(&self, password: &str) -> bool {
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

/// Verifies passwords one at a time, so that a flood of attempts takes at most one CPU core and 19 MiB.
#[derive(Debug)]
pub struct Verifier {
    hash: PasswordHash,
    semaphore: Arc<Semaphore>,
}

impl Verifier {
    pub fn new(hash: PasswordHash) -> Self {
        Self {
            hash,
            semaphore: Arc::new(Semaphore::new(1)),
        }
    }

    pub fn hash(&self) -> &PasswordHash {
        &self.hash
    }

    /// Whether the password is the operator's.
    pub async fn verify(&self, password: String) -> bool {
        let Ok(permit) = Arc::clone(&self.semaphore).acquire_owned().await else {
            return false;
        };
        let hash = self.hash.clone();
        let compared = spawn_blocking(move || {
            // The closure owns the permit, because it runs to its end even if its caller is cancelled.
            let _permit = permit;
            hash.matches(&password)
        });
        compared.await.unwrap_or(false)
    }
}

/// Reads a password from standard input and returns its hash.
///
/// On a terminal it prompts twice, without echo. Otherwise it reads one line.
///
/// # Errors
/// Returns an error if the password can't be read, is too short, or differs from its repetition.
pub fn prompt_and_hash() -> Result<String, HashError> {
    let password = if io::stdin().is_terminal() {
        let password = rpassword::prompt_password("Password: ")?;
        if rpassword::prompt_password("Repeat password: ")? != password {
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
    async fn only_the_right_password_is_accepted() {
        let password = "correct horse battery staple";
        let text = hash(password).expect("a hash");
        assert!(
            text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{text}"
        );
        assert_ne!(
            text,
            hash(password).expect("a hash"),
            "each hash has its own salt"
        );
        let hash = PasswordHash::parse(&text).expect("a hash");
        assert!(!format!("{hash:?}").contains("argon2id"));
        let verifier = Verifier::new(hash);
        assert!(verifier.verify(password.to_owned()).await);
        for wrong in [
            "",
            "correct horse battery staplE",
            "correct horse battery staple ",
        ] {
            assert!(!verifier.verify(wrong.to_owned()).await, "{wrong:?}");
        }
    }

    #[test]
    fn only_complete_argon2id_hashes_are_parsed() {
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
