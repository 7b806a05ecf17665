//! Every shared case through the rust door.

use lyss_tests::{door::RustDoor, door::run_all};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case() {
    run_all::<RustDoor>().await;
}
