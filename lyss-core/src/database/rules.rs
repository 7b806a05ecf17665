//! The table `routing_rules`.
