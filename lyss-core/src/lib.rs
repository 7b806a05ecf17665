//! Lyss.
