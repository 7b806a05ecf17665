//! Months of the request log: PostgreSQL keeps each in a partition of its own; SQLite just deletes old rows.
