//! File descriptors: as many as the system allows this process, and no more connections than they are enough for.

/// Kept for files, the database, Redis and the listeners.
const RESERVED: u64 = 96;

/// Raises this process's limit as far as it may be raised (common systems start processes with 1,024 and allow a
/// hundred times that); gives how many connections it is enough for, with a second descriptor for each one's call to
/// a provider.
///
/// Without that, clients that only hold connections could keep the calls of others from their providers.
pub fn connections() -> usize {
    limit().map_or(usize::MAX, enough_for)
}

fn enough_for(limit: u64) -> usize {
    let connections = limit.saturating_sub(RESERVED) / 2;
    usize::try_from(connections).unwrap_or(usize::MAX).max(1)
}

/// The limit in force; `None` if there is none.
#[cfg(unix)]
fn limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let allowed = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: allowed.maximum,
        maximum: allowed.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => allowed.maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of file descriptors stays as it is");
            allowed.current
        }
    }
}

#[cfg(not(unix))]
fn limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_not_reserved() {
        assert_eq!(enough_for(256), 80);
        assert_eq!(enough_for(1 << 20), (1 << 19) - 48);
        assert_eq!(enough_for(10), 1);
        assert!(connections() >= 1);
    }
}
