//! Doors in other languages: a program that makes the calls with its language's package, and says what came of them.
//!
//! It is told what to do, and answers, in lines of JSON: `tests/doors.md` has the protocol. What is expected of a call is
//! checked here, so that there is one place for it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{
    case::Step,
    door::{Door, Doorway, streamed},
    http_door::Service,
    world::Surroundings,
};

/// Where the engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// In the program.
    Embedded,
    /// In a service, to which the program connects.
    Connected,
}

/// Opens doors in programs. A program that has closed a door opens the next one.
pub struct ScriptDoorway {
    program: PathBuf,
    args: Vec<String>,
    engine: Engine,
    idle: Arc<Mutex<Vec<Script>>>,
}

impl ScriptDoorway {
    /// The Python package, as the Python of `LYSS_TEST_PYTHON` has it; `flavor` is `sync` or `async`.
    pub fn python(flavor: &str, engine: Engine) -> Self {
        let script = beside("lyss-py/tests/door.py");
        Self::new("LYSS_TEST_PYTHON", &[&script, flavor], engine)
    }

    /// The Node package, run by the Node of `LYSS_TEST_NODE`.
    pub fn node(engine: Engine) -> Self {
        let script = beside("lyss-node/test/door.mjs");
        Self::new("LYSS_TEST_NODE", &[&script], engine)
    }

    fn new(variable: &str, args: &[&str], engine: Engine) -> Self {
        let program = std::env::var_os(variable).unwrap_or_else(|| {
            panic!("{variable} is not set: run `make test`, or see tests/doors.md")
        });
        Self {
            program: program.into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            engine,
            idle: Arc::default(),
        }
    }
}

fn beside(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    root.join(path).display().to_string()
}

#[async_trait]
impl Doorway for ScriptDoorway {
    async fn open(&self, surroundings: &Surroundings) -> Box<dyn Door> {
        let idle = self.idle.lock().expect("no panic").pop();
        let mut script = match idle {
            Some(script) => script,
            None => Script::start(&self.program, &self.args),
        };
        let (service, open) = match self.engine {
            Engine::Embedded => (None, json!({"config": surroundings.config})),
            Engine::Connected => {
                let service = Service::start(surroundings).await;
                let connect = json!({"url": service.url(), "api_key": null});
                (Some(service), json!({"connect": connect}))
            }
        };
        script.must(&json!({"open": open})).await;
        Box::new(ScriptDoor {
            script: tokio::sync::Mutex::new(script),
            service,
            idle: Arc::clone(&self.idle),
        })
    }
}

struct ScriptDoor {
    script: tokio::sync::Mutex<Script>,
    service: Option<Service>,
    idle: Arc<Mutex<Vec<Script>>>,
}

#[async_trait]
impl Door for ScriptDoor {
    async fn call(&self, surroundings: &Surroundings, step: &Step) -> Value {
        let call = json!({
            "call": step.call,
            "key": surroundings.key(&step.key),
            "body": step.body,
            "raw_body": step.raw_body,
            "id": step.id,
            "user_id": step.user_id,
            "idempotency_key": step.idempotency_key,
            "read": step.read,
            "hold": step.hold,
        });
        let outcome = self.script.lock().await.ask(&json!({"call": call})).await;
        match outcome.get("events").and_then(Value::as_array) {
            Some(events) => folded(events.clone(), &outcome),
            None => outcome,
        }
    }

    async fn close(self: Box<Self>) {
        let mut script = self.script.into_inner();
        script.must(&json!({"close": true})).await;
        self.idle.lock().expect("no panic").push(script);
        if let Some(service) = self.service {
            service.stop().await;
        }
    }
}

/// The outcome of a stream: of its events, and what else is said of it.
fn folded(events: Vec<Value>, outcome: &Value) -> Value {
    let is = |member: &str| outcome[member] == true;
    let mut all = streamed(events, is("done"), is("open"));
    for (name, value) in outcome.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "events" | "done" | "open") {
            all[name] = value.clone();
        }
    }
    all
}

/// A running program. Dropped, it is killed.
struct Script {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Script {
    fn start(program: &Path, args: &[String]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self {
            child,
            input,
            output,
        }
    }

    /// Sends one line and reads the one that answers it.
    async fn ask(&mut self, line: &Value) -> Value {
        let sent = self.input.write_all(format!("{line}\n").as_bytes()).await;
        let answer = match sent {
            Ok(()) => self.output.next_line().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(Some(answer)) => serde_json::from_str(&answer)
                .unwrap_or_else(|error| panic!("not a line of JSON ({error}): {answer}")),
            other => {
                let ended = self.child.wait().await;
                panic!("the program does not answer ({other:?}, {ended:?}) to {line}")
            }
        }
    }

    /// Asks for what cannot go wrong.
    async fn must(&mut self, line: &Value) {
        let answer = self.ask(line).await;
        assert_eq!(answer["ok"], true, "{line}: {answer}");
    }
}
