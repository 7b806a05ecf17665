//! The examples, run as a user would: in each language the same ones, and what they must say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use lyss_tests::{
    process::Setup,
    services::{self, new_database},
};

/// Each example, and texts of what it prints, whatever the language.
const EXAMPLES: [(&str, &[&str]); 6] = [
    ("quick_start", &["Hello, Lyss!"]),
    ("streaming", &["one", "two", "three"]),
    ("tools", &["weather", "What is the weather in Paris?"]),
    ("session", &["My name is Ada.", "What is my name?"]),
    ("budget", &["budget_exceeded", "0.3 USD"]),
    ("fallback", &["upstream_error", "unreliable", "simulated"]),
];

fn examples() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the workspace").join("examples")
}

/// What an interpreter is found by.
fn interpreter(variable: &str) -> PathBuf {
    let found = std::env::var_os(variable);
    found
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{variable} is not set: run `make test`, or see tests/doors.md"))
}

/// Runs a program in a directory; gives what it prints.
fn said(command: &mut Command, dir: &Path) -> String {
    let output = command
        .current_dir(dir)
        .env("LYSS_DATA__DIR", dir.join("data"))
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{text}\n{errors}");
    text
}

fn check(run: impl Fn(&str, &Path) -> String) {
    for (name, texts) in EXAMPLES {
        let dir = tempfile::tempdir().unwrap();
        let printed = run(name, dir.path());
        for text in texts {
            assert!(
                printed.contains(text),
                "{name} does not say {text}:\n{printed}"
            );
        }
    }
}

/// A directory in which `import "lyss"` finds the package, as `npm install` makes it.
fn with_package() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let modules = dir.path().join("node_modules");
    std::fs::create_dir(&modules).unwrap();
    std::os::unix::fs::symlink(examples().join("../lyss-node"), modules.join("lyss")).unwrap();
    for folder in ["node", "doors"] {
        let to = dir.path().join(folder);
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(examples().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    for file in ["offline.yaml", "package.json"] {
        std::fs::copy(examples().join(file), dir.path().join(file)).unwrap();
    }
    dir
}

/// A gateway on a free port, with the configuration of the examples.
fn service(config: &str) -> Setup {
    Setup::with_file(tempfile::tempdir().unwrap(), examples().join(config))
        .env("GATEWAY_HTTP_ADDR", "127.0.0.1:0")
        .env("LYSS_MONITORING__PROMETHEUS__ENABLED", "false")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl() {
    let setup = service("offline.yaml");
    let lyss = setup.start().await;
    let url = format!("http://{}/v1", lyss.address());
    tokio::task::spawn_blocking(move || {
        check(|name, dir| {
            let script = examples().join("curl").join(name).with_extension("sh");
            said(Command::new(script).env("LYSS_URL", &url), dir)
        });
    })
    .await
    .unwrap();
}

#[test]
fn python() {
    let python = interpreter("LYSS_TEST_PYTHON");
    check(|name, dir| {
        let script = examples().join("python").join(name).with_extension("py");
        said(Command::new(&python).arg(script), dir)
    });
}

#[test]
fn node() {
    let (node, folder) = (interpreter("LYSS_TEST_NODE"), with_package());
    check(|name, dir| {
        let script = folder.path().join("node").join(name).with_extension("js");
        said(Command::new(&node).arg(script), dir)
    });
}

/// Begun in Python, continued in Node, read over HTTP: one conversation in PostgreSQL and Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_crosses_doors() {
    let database = new_database(&services::postgres()).await;
    let redis = services::redis();
    let setup = service("doors/gateway.yaml")
        .env("LYSS_DATABASE", &database)
        .env("LYSS_REDIS", &redis);
    let lyss = setup.start().await;
    let url = format!("http://{}/v1", lyss.address());
    let printed = tokio::task::spawn_blocking(move || {
        let (folder, dir) = (with_package(), tempfile::tempdir().unwrap());
        let door = |mut command: Command| {
            command
                .env("LYSS_DATABASE", &database)
                .env("LYSS_REDIS", &redis)
                .env("LYSS_URL", &url);
            said(&mut command, dir.path())
        };
        let mut begin = Command::new(interpreter("LYSS_TEST_PYTHON"));
        begin.arg(examples().join("doors/begin.py"));
        let session = door(begin).trim().to_owned();
        let mut go_on = Command::new(interpreter("LYSS_TEST_NODE"));
        go_on
            .arg(folder.path().join("doors/continue.js"))
            .arg(&session);
        let said = door(go_on);
        let mut read = Command::new(examples().join("doors/read.sh"));
        read.arg(&session);
        said + &door(read)
    });
    let printed = printed.await.unwrap();
    let messages = printed.lines().last().unwrap_or_default();
    let messages: serde_json::Value = serde_json::from_str(messages).unwrap_or_default();
    let contents: Vec<&str> = messages["data"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["message"]["content"].as_str())
        .collect();
    let (begun, continued) = ("Begun in Python.", "Continued in Node.");
    assert_eq!(contents, [begun, begun, continued, continued], "{printed}");
}
