//! Every shared case through every door.

use std::collections::BTreeSet;

use lyss_tests::{
    door::run_all,
    http_door::{HttpConnectedDoorway, HttpDoorway},
    rust_door::{RustConnectedDoorway, RustDoorway},
    script_door::{Engine, ScriptDoorway},
};

/// One test a door, and the list of the doors that have one.
macro_rules! doors {
    ($( $name:ident => $doorway:expr; )*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                run_all(&$doorway).await;
            }
        )*

        const DOORS: &[&str] = &[$( stringify!($name), )*];
    };
}

doors! {
    rust => RustDoorway;
    rust_connected => RustConnectedDoorway;
    http => HttpDoorway;
    http_connected => HttpConnectedDoorway;
    python_sync => ScriptDoorway::python("sync", Engine::Embedded);
    python_sync_connected => ScriptDoorway::python("sync", Engine::Connected);
    python_async => ScriptDoorway::python("async", Engine::Embedded);
    python_async_connected => ScriptDoorway::python("async", Engine::Connected);
    node => ScriptDoorway::node(Engine::Embedded);
    node_connected => ScriptDoorway::node(Engine::Connected);
}

/// A door that is in the list runs every case: `run_all` makes sure of that. So the list has to be whole.
#[test]
fn parity() {
    let mut expected = BTreeSet::new();
    for language in ["rust", "http", "python_sync", "python_async", "node"] {
        expected.insert(language.to_owned());
        expected.insert(format!("{language}_connected"));
    }
    let doors: BTreeSet<String> = DOORS.iter().map(|door| (*door).to_owned()).collect();
    assert_eq!(doors, expected);
}
