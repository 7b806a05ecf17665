//! A secret of 32 bytes in a file of the data directory, made once and then kept.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use crate::error::{Error, ErrorKind, Result};

/// Bytes of a secret.
pub(crate) const LENGTH: usize = 32;

/// Which secret it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SecretFile {
    /// The file's name.
    pub file: &'static str,
    /// What it is called in messages.
    pub what: &'static str,
    /// The configuration key that would be used instead.
    pub key: &'static str,
    /// What happens when it is removed, for the operator who finds it empty.
    pub when_removed: &'static str,
}

impl SecretFile {
    /// The secret of a data directory: 32 bytes in hex (mode 0600), made from the system's randomness if there is none,
    /// and the directory with it. Instances that start at once agree on one.
    ///
    /// # Errors
    /// `invalid_value` (param [`key`](Self::key)) if the file is empty, not 64 hex digits, or open to everybody: a new
    /// one in its place would make what it protects unreadable, so that the operator has to decide. `internal` if it
    /// cannot be read or made.
    pub fn load_or_create(&self, data_dir: &Path) -> Result<Vec<u8>> {
        if let Some(secret) = self.load_if_there(data_dir)? {
            return Ok(secret);
        }
        let path = data_dir.join(self.file);
        self.create(data_dir, &path)
            .map_err(|error| self.failed(&path, "made", error))?;
        self.load(&path)
    }

    /// As [`load_or_create`](Self::load_or_create), but a file that is missing stays so.
    ///
    /// # Errors
    /// As there.
    pub fn load_if_there(&self, data_dir: &Path) -> Result<Option<Vec<u8>>> {
        let path = data_dir.join(self.file);
        match fs::metadata(&path) {
            Ok(_) => self.load(&path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&path, "read", error)),
        }
    }

    fn load(&self, path: &Path) -> Result<Vec<u8>> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let metadata = fs::metadata(path).map_err(|error| self.failed(path, "read", error))?;
            if metadata.permissions().mode() & 0o007 != 0 {
                return Err(
                    self.refused(path, "is open to every user of this machine: chmod 600 it")
                );
            }
        }
        let text = fs::read_to_string(path).map_err(|error| self.failed(path, "read", error))?;
        let digits = text.trim();
        if digits.is_empty() {
            let why = format!(
                "is empty: restore it from a backup; or remove it, and {}",
                self.when_removed
            );
            return Err(self.refused(path, &why));
        }
        decode(digits).ok_or_else(|| {
            let why = format!("is not a {}: 64 hexadecimal digits", self.what);
            self.refused(path, &why)
        })
    }

    fn create(&self, data_dir: &Path, path: &Path) -> io::Result<()> {
        let mut bytes = [0; LENGTH];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        let mut directory = fs::DirBuilder::new();
        directory.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut directory, 0o700);
        directory.create(data_dir)?;
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();

        // Written aside and linked into place: nobody sees half of it, and of two that start at once one wins.
        let aside = data_dir.join(format!(".{}.{}", self.file, uuid::Uuid::new_v4().simple()));
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&aside)?;
        let written = file
            .write_all(format!("{digits}\n").as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| match fs::hard_link(&aside, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                linked => linked,
            });
        let removed = fs::remove_file(&aside);
        written.and(removed)
    }

    fn refused(&self, path: &Path, why: &str) -> Error {
        Error::invalid(
            self.key,
            format!("the {} file {} {why}", self.what, path.display()),
        )
    }

    fn failed(&self, path: &Path, done: &str, error: io::Error) -> Error {
        Error::new(
            ErrorKind::Internal,
            format!("the {} file {} cannot be {done}", self.what, path.display()),
        )
        .with_source(error)
    }
}

fn decode(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * LENGTH || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
