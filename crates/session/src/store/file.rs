//! A store of files: one per session, in a folder of their own, readable only by their owner. It is for a single
//! machine where even SQLite is too much. Servers on the same machine can share a folder.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use time::OffsetDateTime;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{DeleteExpired, Diagnostics, EncodedRecord, Store, Swap, backend, decoded, encoded};

/// The number of lock files. The last byte of a session's id selects its lock file.
const LOCKS: i128 = 256;

/// The size of a probe in bytes: one block of most file systems.
const PROBE_SIZE: usize = 4_096;

/// A folder of records.
///
/// A record's file is named by the hashed id in hexadecimal digits, so no name can leave the folder. A file is replaced
/// by renaming, so no reader sees a partial one.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
    /// The user and the group that own the folder.
    owner: (u32, u32),
}

/// Opens the folder, and creates it if it is missing.
///
/// # Errors
/// When the folder can't be created or written.
pub fn open(folder: &Path) -> io::Result<Files> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let metadata = fs::metadata(folder)?;
    let files = Files {
        folder: folder.to_owned(),
        owner: (metadata.uid(), metadata.gid()),
    };
    files.lock(Id(0))?;
    Ok(files)
}

impl Files {
    fn path(&self, id: Id) -> PathBuf {
        self.folder
            .join(format!("{:032x}.session", id.0.cast_unsigned()))
    }

    /// Locks the session against writes of other threads and servers until the lock is dropped. The lock needs a file
    /// of its own, because the session's file is replaced.
    fn lock(&self, id: Id) -> io::Result<File> {
        let name = format!("{:02x}.lock", id.0.rem_euclid(LOCKS));
        let path = self.folder.join(name);
        let file = self.open_or_create(options().append(true), &path)?;
        file.lock()?;
        Ok(file)
    }

    /// Opens a file, and creates it if it is missing. A new file gets the folder's owner, so that the server can read a
    /// file that root has created by a command. An existing file keeps its owner.
    fn open_or_create(&self, options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        let created = match options.create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return options.create_new(false).create(true).open(path);
            }
            other => other?,
        };
        let (user, group) = self.owner;
        if created.metadata()?.uid() != user {
            // Only root may change the owner. Any other user keeps the file.
            let _ = fchown(&created, Some(user), Some(group));
        }
        Ok(created)
    }

    /// The bytes of a record, expired or not.
    fn bytes(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => file.read_to_end(&mut bytes).map(|_| Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn load(&self, id: Id) -> session_store::Result<Option<Record>> {
        let bytes = match self.bytes(&self.path(id)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                return Err(session_store::Error::Decode(error.to_string()));
            }
            Err(error) => return Err(backend(error)),
        };
        let record = decoded(&bytes)?;
        Ok((record.expiry_date > OffsetDateTime::now_utc()).then_some(record))
    }

    /// Writes a record to a temporary file, syncs it, and renames it. So a full disk or a crash leaves the old record.
    fn write(&self, record: &Record) -> session_store::Result<()> {
        let path = self.path(record.id);
        let temporary = path.with_extension("new");
        let bytes = encoded(record)?;
        let written = self
            .open_or_create(options().write(true).truncate(true), &temporary)
            .and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_data()
            })
            .and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(backend)
    }

    /// Writes and removes a file of one block, the size of most records.
    fn probe(&self) -> io::Result<()> {
        let path = self.folder.join(format!("probe-{}", std::process::id()));
        let written = self
            .open_or_create(options().write(true).truncate(true), &path)
            .and_then(|mut file| {
                file.write_all(&[0; PROBE_SIZE])?;
                file.sync_data()
            });
        let removed = fs::remove_file(&path);
        written.and(removed)
    }

    fn remove(&self, id: Id) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Runs `act` under the session's lock if the record is still `old`.
    fn if_unchanged(
        &self,
        old: &EncodedRecord,
        act: impl FnOnce() -> session_store::Result<()>,
    ) -> session_store::Result<bool> {
        let _lock = self.lock(old.id).map_err(backend)?;
        let bytes = self.bytes(&self.path(old.id)).map_err(backend)?;
        if bytes.as_deref() != Some(old.bytes()?) {
            return Ok(false);
        }
        act()?;
        Ok(true)
    }

    fn clear(&self, limit: u32) -> session_store::Result<u64> {
        let mut cleared = 0;
        for entry in fs::read_dir(&self.folder).map_err(backend)? {
            let path = entry.map_err(backend)?.path();
            if cleared == u64::from(limit) {
                break;
            }
            let is_record = path
                .extension()
                .is_some_and(|extension| extension == "session");
            if is_record && self.clear_one(&path)? {
                cleared += 1;
            }
        }
        Ok(cleared)
    }

    fn clear_one(&self, path: &Path) -> session_store::Result<bool> {
        let is_expired = |bytes: Option<Vec<u8>>| {
            let record = bytes.and_then(|bytes| decoded(&bytes).ok());
            record.filter(|record| record.expiry_date <= OffsetDateTime::now_utc())
        };
        // Checked again under the lock. Most records have not expired, so the first check spares the lock.
        let Some(record) = is_expired(self.bytes(path).map_err(backend)?) else {
            return Ok(false);
        };
        let _lock = self.lock(record.id).map_err(backend)?;
        if is_expired(self.bytes(path).map_err(backend)?).is_none() {
            return Ok(false);
        }
        self.remove(record.id).map_err(backend)?;
        Ok(true)
    }

    /// Runs file operations on Tokio's blocking threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> session_store::Result<T> + Send + 'static,
    ) -> session_store::Result<T> {
        let files = self.clone();
        tokio::task::spawn_blocking(move || work(&files))
            .await
            .map_err(backend)?
    }
}

/// New files are accessible only to their owner.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

#[async_trait::async_trait]
impl SessionStore for Files {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        self.save(record).await
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let record = record.clone();
        self.blocking(move |files| {
            let _lock = files.lock(record.id).map_err(backend)?;
            files.write(&record)
        })
        .await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let id = *id;
        self.blocking(move |files| files.load(id)).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let id = *id;
        self.blocking(move |files| {
            let _lock = files.lock(id).map_err(backend)?;
            files.remove(id).map_err(backend)
        })
        .await
    }
}

#[async_trait::async_trait]
impl Store for Files {
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap> {
        let (old, new) = (old.clone(), new.clone());
        self.blocking(move |files| files.if_unchanged(&old, || files.write(&new)))
            .await
            .map(Swap::from)
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        let old = old.clone();
        self.blocking(move |files| {
            files.if_unchanged(&old, || files.remove(old.id).map_err(backend))
        })
        .await
    }

    fn delete_expired(&self) -> Option<&dyn DeleteExpired> {
        Some(self)
    }

    fn diagnostics(&self) -> Option<&dyn Diagnostics> {
        Some(self)
    }
}

#[async_trait::async_trait]
impl DeleteExpired for Files {
    async fn delete_expired(&self, limit: u32) -> session_store::Result<u64> {
        self.blocking(move |files| files.clear(limit)).await
    }
}

#[async_trait::async_trait]
impl Diagnostics for Files {
    async fn check_writable(&self) -> session_store::Result<()> {
        self.blocking(|files| files.probe().map_err(backend)).await
    }
}
