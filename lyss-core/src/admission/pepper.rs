//! The pepper: a file beside the database, and never in it.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use crate::error::{Error, ErrorKind, Result};

const FILE: &str = "pepper";
const LENGTH: usize = 32;

/// The pepper of a data directory: 32 bytes in hex, in the file `pepper` (mode 0600), made from the system's randomness
/// if there is none, and the directory with it. Instances that start at once agree on one.
///
/// # Errors
/// `invalid_value` (param `auth.pepper`) if the file is empty, not 64 hex digits, or open to everybody: a new one in its
/// place would make every key wrong, so that the operator has to decide. `internal` if it cannot be read or made.
pub fn load_or_create_pepper(data_dir: &Path) -> Result<Vec<u8>> {
    let path = data_dir.join(FILE);
    match fs::metadata(&path) {
        Ok(_) => load(&path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(data_dir, &path).map_err(|error| failed(&path, "made", error))?;
            load(&path)
        }
        Err(error) => Err(failed(&path, "read", error)),
    }
}

fn load(path: &Path) -> Result<Vec<u8>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let metadata = fs::metadata(path).map_err(|error| failed(path, "read", error))?;
        if metadata.permissions().mode() & 0o007 != 0 {
            return Err(refused(
                path,
                "is open to every user of this machine: chmod 600 it",
            ));
        }
    }
    let text = fs::read_to_string(path).map_err(|error| failed(path, "read", error))?;
    let digits = text.trim();
    if digits.is_empty() {
        return Err(refused(
            path,
            "is empty: restore it from a backup; or remove it, and every API key has to be made anew",
        ));
    }
    decode(digits).ok_or_else(|| refused(path, "is not a pepper: 64 hexadecimal digits"))
}

fn create(data_dir: &Path, path: &Path) -> io::Result<()> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let mut directory = fs::DirBuilder::new();
    directory.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut directory, 0o700);
    directory.create(data_dir)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();

    // Written aside and linked into place: nobody sees half of it, and of two that start at once one wins.
    let aside = data_dir.join(format!(".{FILE}.{}", uuid::Uuid::new_v4().simple()));
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

fn refused(path: &Path, why: &str) -> Error {
    Error::invalid(
        "auth.pepper",
        format!("the pepper file {} {why}", path.display()),
    )
}

fn failed(path: &Path, done: &str, error: io::Error) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("the pepper file {} cannot be {done}", path.display()),
    )
    .with_source(error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn made_once_and_then_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let peppers: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| load_or_create_pepper(directory.path()).unwrap()))
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect()
        });
        assert_eq!(peppers[0].len(), 32);
        assert!(peppers.iter().all(|pepper| pepper == &peppers[0]));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(directory.path().join(FILE))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let elsewhere = tempfile::tempdir().unwrap();
        assert_ne!(load_or_create_pepper(elsewhere.path()).unwrap(), peppers[0]);
    }

    /// With PostgreSQL nothing else has made the directory before the first `lyss keys create`.
    #[test]
    fn a_missing_directory_is_made_for_its_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("share/lyss");
        let pepper = load_or_create_pepper(&directory).unwrap();
        assert_eq!(load_or_create_pepper(&directory).unwrap(), pepper);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&directory).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }

    #[test]
    fn a_bad_file_is_refused_and_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for (content, word) in [
            (String::new(), "is empty"),
            ("\n".into(), "is empty"),
            ("ab".repeat(31), "64 hex"),
            ("zz".repeat(32), "64 hex"),
            ("é".repeat(32), "64 hex"),
        ] {
            fs::write(&path, &content).unwrap();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
            let error = load_or_create_pepper(directory.path()).unwrap_err();
            assert!(error.message().contains(word), "{error}");
            assert_eq!(error.param(), Some("auth.pepper"));
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_open_to_all_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        load_or_create_pepper(directory.path()).unwrap();
        let path = directory.path().join(FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = load_or_create_pepper(directory.path()).unwrap_err();
        assert!(error.message().contains("chmod 600"), "{error}");
    }
}
