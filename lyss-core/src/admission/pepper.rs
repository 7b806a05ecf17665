//! The pepper: a file beside the database, and never in it.

use std::path::Path;

use crate::{error::Result, secret_file::SecretFile};

const PEPPER: SecretFile = SecretFile {
    file: "pepper",
    what: "pepper",
    key: "auth.pepper",
    when_removed: "every API key has to be made anew",
};

/// The pepper of a data directory: 32 bytes in hex, in the file `pepper` (mode 0600), made from the system's randomness
/// if there is none, and the directory with it. Instances that start at once agree on one.
///
/// # Errors
/// `invalid_value` (param `auth.pepper`) if the file is empty, not 64 hex digits, or open to everybody: a new one in its
/// place would make every key wrong, so that the operator has to decide. `internal` if it cannot be read or made.
pub fn load_or_create_pepper(data_dir: &Path) -> Result<Vec<u8>> {
    PEPPER.load_or_create(data_dir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

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
            let mode = fs::metadata(directory.path().join(PEPPER.file))
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
        let path = directory.path().join(PEPPER.file);
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
        let path = directory.path().join(PEPPER.file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = load_or_create_pepper(directory.path()).unwrap_err();
        assert!(error.message().contains("chmod 600"), "{error}");
    }
}
