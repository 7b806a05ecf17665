//! The calls of a run: what each asks for, how its provider is to fail, when its caller leaves, and what the caller saw.

use std::time::Duration;

use lyss_mock_provider::{MockProvider, Rule, Script};
use lyss_tests::client::{Answer, CHAT, Client, is_done};
use serde_json::{Value, json};

/// The only model: one whose vocabulary is known, so that what was delivered is counted and not estimated.
pub const MODEL: &str = "gpt-4o-mini";

/// Tokens of an attempt that fails and is billed.
const BILLED: (i64, i64) = (50, 7);

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answered at once.
    Whole,
    /// Answered as a stream.
    Streamed,
    /// A stream whose caller leaves after so many events.
    LeftAfter(usize),
    /// Its caller leaves after so many microseconds, whatever has come.
    Gone { stream: bool, after: u64 },
    /// The first provider fails and bills for it, the second answers.
    Billed,
    /// The first provider fails and does not bill, the second answers.
    Failed,
    /// The first provider does not answer in time.
    Slow,
    /// The provider refuses the call.
    Refused,
    /// The stream ends with an error after so many events.
    Broken(usize),
    /// The connection breaks after so many bytes of the stream.
    Cut(u64),
}

/// What its caller saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The answer to its end.
    Whole,
    /// An error.
    Refusal(u16, String),
    /// So many words of a stream that then failed.
    Failed(usize),
    /// So many words, then the caller left.
    Left(usize),
    /// The connection broke: the gateway was killed.
    Nothing,
    /// Nothing, and the gateway lives.
    Silence,
}

/// One call.
pub struct Call {
    kind: Kind,
    body: Value,
}

impl Call {
    /// The call of a number in the run of this seed.
    pub fn new(seed: u64, number: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(1_000_003) + number as u64);
        let kind = match random.u32(0..100) {
            0..30 => Kind::Whole,
            30..58 => Kind::Streamed,
            58..68 => Kind::LeftAfter(random.usize(1..12)),
            68..74 => Kind::Gone {
                stream: false,
                after: random.u64(0..40_000),
            },
            74..78 => Kind::Gone {
                stream: true,
                after: random.u64(0..40_000),
            },
            78..84 => Kind::Billed,
            84..90 => Kind::Failed,
            90..91 => Kind::Slow,
            91..94 => Kind::Refused,
            94..97 => Kind::Broken(random.usize(1..15)),
            _ => Kind::Cut(random.u64(1..4_000)),
        };
        // Its user, and a word of its prompt: by this all sides are joined.
        let name = format!("call-{number}");
        let word = match kind {
            Kind::Billed => "fails-billed",
            Kind::Failed => "fails-unbilled",
            Kind::Slow => "answers-late",
            _ => "answers",
        };
        let fault = match kind {
            Kind::Refused => "status:400".to_owned(),
            Kind::Broken(at) => format!("error@{at}"),
            Kind::Cut(after) => format!("cut:{after}"),
            // The rule's delay counts.
            Kind::Slow => String::new(),
            _ => format!("delay:{}", random.u64(0..12)),
        };
        let chunks = random.usize(3..25);
        // Short words: the provider, which counts words, then bills no less than what the gateway knows by the bytes.
        let words = "a ".repeat(random.usize(60..120));
        let text = format!("<{name}> {word} {words}[[chunks:{chunks} size:5 every:2 {fault}]]");
        let stream = match kind {
            Kind::Streamed | Kind::LeftAfter(_) | Kind::Broken(_) | Kind::Cut(_) => true,
            Kind::Gone { stream, .. } => stream,
            Kind::Billed | Kind::Failed => random.bool(),
            Kind::Whole | Kind::Slow | Kind::Refused => false,
        };
        let body = json!({
            "model": MODEL, "user_id": name, "stream": stream, "max_tokens": 100,
            "messages": [{"role": "user", "content": text}],
        });
        Self { kind, body }
    }

    /// Makes the call.
    ///
    /// # Errors
    /// The gateway was not reached at all.
    pub async fn make(&self, client: &Client) -> Result<Heard, String> {
        match self.kind {
            Kind::LeftAfter(events) => self.leave(client, Some(events)).await,
            Kind::Broken(_) | Kind::Cut(_) => self.leave(client, None).await,
            Kind::Gone { after, .. } => {
                let sent = client.send("POST", CHAT, Some(&self.body));
                match tokio::time::timeout(Duration::from_micros(after), sent).await {
                    Err(_) => Ok(Heard::Left(0)),
                    Ok(answer) => self.heard(answer),
                }
            }
            _ => self.heard(client.send("POST", CHAT, Some(&self.body)).await),
        }
    }

    fn heard(&self, answer: Result<Answer, String>) -> Result<Heard, String> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return broken(error),
        };
        let stream = self.body["stream"] == true;
        Ok(match answer.status {
            200 if !stream || is_done(&answer) => Heard::Whole,
            200 => Heard::Failed(0),
            status => refusal(status, &answer),
        })
    }

    /// Reads a stream, to an event or to its end.
    async fn leave(&self, client: &Client, events: Option<usize>) -> Result<Heard, String> {
        let mut reading = match client.open("POST", CHAT, Some(&self.body)).await {
            Ok(reading) => reading,
            Err(error) => return broken(error),
        };
        if reading.status != 200 {
            return self.heard(reading.whole().await);
        }
        match reading.events(events.unwrap_or(usize::MAX)).await {
            Err(_) => return Ok(Heard::Nothing),
            Ok(true) => return Ok(Heard::Left(words(&reading.content()))),
            Ok(false) => {}
        }
        let read = words(&reading.content());
        let answer = reading.whole().await?;
        Ok(match is_done(&answer) {
            true => Heard::Whole,
            false => Heard::Failed(read),
        })
    }
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn refusal(status: u16, answer: &Answer) -> Heard {
    let code = answer.json()["error"]["code"].as_str().map(str::to_owned);
    Heard::Refusal(status, code.unwrap_or_default())
}

/// A connection that could not be made has carried nothing.
fn broken(error: String) -> Result<Heard, String> {
    match error.contains("(Connect)") {
        true => Err(error),
        false => Ok(Heard::Nothing),
    }
}

/// What the provider that is tried first does with the calls that it is to fail.
pub fn rules(first: &MockProvider) {
    let rule = |word: &str, script: Script| {
        first.rule(Rule {
            contains: Some(word.into()),
            script,
            ..Rule::default()
        });
    };
    let billed = Script {
        tokens: Some(BILLED),
        ..Script::status(500)
    };
    rule("fails-billed", billed);
    rule("fails-unbilled", Script::status(500));
    let late = Script {
        delay_ms: 3_000,
        ..Script::default()
    };
    rule("answers-late", late);
}
