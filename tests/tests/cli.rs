//! The binary as a user meets it: the first start, mistakes, and a configuration that changes while it serves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lyss_tests::{
    client::chat,
    process::{Setup, binary, free_port},
};
use serde_json::{Value, json};

/// The binary with nothing but a home directory.
fn lyss(home: &Path) -> Command {
    let mut command = Command::new(binary());
    command
        .current_dir(home)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_first_start_prints_a_command_that_works() {
    let home = tempfile::tempdir().unwrap();
    let screen = home.path().join("screen");
    let _running = Killed(
        lyss(home.path())
            .env("GATEWAY_HTTP_ADDR", format!("127.0.0.1:{}", free_port()))
            .env(
                "LYSS_MONITORING__PROMETHEUS__ADDR",
                format!("127.0.0.1:{}", free_port()),
            )
            .stdout(std::fs::File::create(&screen).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let end = Instant::now() + Duration::from_secs(15);
    let text = loop {
        let text = std::fs::read_to_string(&screen).unwrap();
        if text.contains("curl") && text.ends_with('\n') {
            break text;
        }
        assert!(Instant::now() < end, "no screen: {text}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(text.contains("simulated/echo"), "{text}");
    let (_, command) = text.split_once("curl").unwrap();
    let answer = Command::new("sh")
        .args(["-c", &format!("curl -sS {command}")])
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello");
}

#[test]
fn a_taken_port_is_named_and_leaves_nothing_behind() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (variable, other, key) in [
        (
            "GATEWAY_HTTP_ADDR",
            "LYSS_MONITORING__PROMETHEUS__ADDR",
            "server.http.addr",
        ),
        (
            "LYSS_MONITORING__PROMETHEUS__ADDR",
            "GATEWAY_HTTP_ADDR",
            "monitoring.prometheus.addr",
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let output = lyss(home.path())
            .env(variable, format!("127.0.0.1:{port}"))
            .env(other, "127.0.0.1:0")
            .output()
            .unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains(&format!("port {port} is taken")), "{text}");
        assert!(text.contains(key), "{text}");
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }
}

#[test]
fn exit_codes() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("good.yaml"), "providers: {simulated: {}}").unwrap();
    std::fs::write(home.path().join("bad.yaml"), "server: {hosts: 5}\nx: 1\n").unwrap();
    let away = "data: {database: {driver: postgres, source: \"host=127.0.0.1 port=1 user=x\"}}";
    std::fs::write(home.path().join("away.yaml"), away).unwrap();
    for (arguments, code, said) in [
        ("check --config good.yaml", 0, "good.yaml: ok"),
        ("check --config bad.yaml", 1, "bad.yaml:2:1: x: unknown key"),
        ("serve --config bad.yaml", 1, "bad.yaml:1:17: server.hosts"),
        ("serve --config none.yaml", 1, "none.yaml: cannot be read"),
        ("keys revoke nobody --config good.yaml", 1, "no API key"),
        ("usage --from then --config good.yaml", 1, "`from`"),
        ("usage rerate --config good.yaml", 2, "--from"),
        ("usage rerate --from then --config good.yaml", 1, "`from`"),
        ("fly", 2, "unrecognized subcommand 'fly'"),
        ("chat --model", 2, "a value is required"),
        (
            "migrate --config away.yaml",
            3,
            "the database is not available",
        ),
        ("--help", 0, "An AI gateway"),
    ] {
        let output = lyss(home.path())
            .args(arguments.split(' '))
            .output()
            .unwrap();
        let text = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {text}");
        assert!(text.contains(said), "{arguments}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_changes_under_load() {
    let config = |upstream: &str| {
        json!({"routing": {"default_provider": "simulated", "rules": [
            {"model": "m", "provider": "simulated", "upstream_model": upstream},
        ]}, "providers": {"simulated": {}}})
    };
    let setup = Setup::new(&config("first"));
    let lyss = setup.start().await;
    let text = std::fs::read_to_string(&setup.config).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (client, stop) = (lyss.client(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut models = Vec::new();
                while !stop.load(Relaxed) {
                    let answer = client.chat(&chat("m", "hello")).await;
                    assert_eq!(answer.status, 200, "{}", answer.json());
                    let model = answer.header("x-lyss-model").unwrap().to_owned();
                    if models.last() != Some(&model) {
                        models.push(model);
                    }
                }
                models
            })
        })
        .collect();

    tokio::time::sleep(Duration::from_millis(200)).await;
    std::fs::write(
        &setup.config,
        text.replace("upstream_model", "upstram_model"),
    )
    .unwrap();
    assert!(
        lyss.logs("routing.rules[0].upstram_model: unknown key")
            .await
    );
    assert!(lyss.logs("the old one stays in force").await);
    let model = async || {
        let answer = lyss.client().chat(&chat("m", "hello")).await;
        answer.header("x-lyss-model").unwrap().to_owned()
    };
    assert_eq!(model().await, "first");
    std::fs::write(&setup.config, text.replace("first", "second")).unwrap();
    let began = Instant::now();
    while model().await != "second" {
        assert!(began.elapsed() < Duration::from_secs(5), "not in force");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Relaxed);
    for worker in load {
        assert_eq!(worker.await.unwrap(), ["first", "second"]);
    }
}
