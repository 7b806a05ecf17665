//! Every shared case through the http door.

use lyss_tests::{door::run_all, http::HttpDoor};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case() {
    run_all::<HttpDoor>().await;
}
