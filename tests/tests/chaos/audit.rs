//! Compares the log with what the callers saw and the providers billed.
//!
//! | row | what it must say |
//! | --- | --- |
//! | `reported` | the provider's own tokens, and so its bill to the pico |
//! | `partial`: cancelled, or broken off | no fewer tokens than its caller has read, no more than the provider has sent (and one, where the text is cut inside of a word) |
//! | `aborted` | its prompt's lower bound by bytes: no more than the provider's bill, and nothing only if none was asked |
//! | any | its prompt has no more tokens than bytes |
//!
//! Attempts that failed add what their provider reported; of those it may have worked on and said nothing, the prompt.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use lyss_mock_provider::{Entry, MockProvider, Outcome};
use serde::Deserialize;

use crate::calls::Heard;

/// Per million tokens.
pub const INPUT_PRICE: &str = "2.5";
/// Per million tokens.
pub const OUTPUT_PRICE: &str = "10";
const INPUT: i128 = 2_500_000;
const OUTPUT: i128 = 10_000_000;

fn price(input: i64, output: i64) -> i128 {
    i128::from(input) * INPUT + i128::from(output) * OUTPUT
}

/// What is audited of a row of the log.
#[derive(Debug, Deserialize)]
pub struct Row {
    user_id: String,
    status: String,
    #[expect(dead_code, reason = "shown where a row is wrong")]
    error_code: Option<String>,
    usage_source: String,
    input_tokens: i64,
    output_tokens: i64,
    user_charge_pico: i64,
    provider_cost_pico: i64,
}

impl Row {
    pub const QUERY: &str = "SELECT json_build_object('user_id', user_id, 'status', status, 'error_code', error_code, \
        'usage_source', usage_source, 'input_tokens', input_tokens, 'output_tokens', output_tokens, \
        'user_charge_pico', user_charge_pico, 'provider_cost_pico', provider_cost_pico)::text \
        FROM request_logs ORDER BY request_id";

    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).expect("a row is JSON")
    }

    fn charge(&self) -> i128 {
        self.user_charge_pico.into()
    }

    fn cost(&self) -> i128 {
        self.provider_cost_pico.into()
    }

    fn counted(&self) -> i128 {
        price(self.input_tokens, self.output_tokens)
    }
}

/// An attempt as its provider saw it.
struct Attempt {
    entry: Entry,
    /// Bytes of the request.
    bytes: i64,
}

impl Attempt {
    /// What the provider bills: what it has sent, to whoever was there.
    fn bill(&self) -> i128 {
        price(self.entry.prompt_tokens, self.entry.completion_tokens)
    }

    fn answered(&self) -> bool {
        self.entry.status == 200
    }

    /// Whether it told the gateway that it failed.
    fn refused(&self) -> bool {
        self.entry.status >= 400
    }
}

/// Sums of one kind of row.
#[derive(Default)]
struct Sum {
    rows: usize,
    charged: i128,
    cost: i128,
    billed: i128,
}

/// What was found.
pub struct Audit {
    calls: usize,
    rows: usize,
    attempts: usize,
    heard: BTreeMap<String, usize>,
    sums: BTreeMap<String, Sum>,
    missing: usize,
    double: usize,
    wrong: Vec<String>,
}

impl Audit {
    pub fn new(heard: &[Option<Heard>], mocks: &[&MockProvider], rows: &[Row]) -> Self {
        let attempts = attempts(mocks);
        let mut audit = Self {
            calls: heard.len(),
            rows: rows.len(),
            attempts: attempts.values().map(Vec::len).sum(),
            heard: BTreeMap::new(),
            sums: BTreeMap::new(),
            missing: 0,
            double: 0,
            wrong: Vec::new(),
        };
        let mut by_name: HashMap<&str, Vec<&Row>> = HashMap::new();
        for row in rows {
            by_name.entry(&row.user_id).or_default().push(row);
        }
        for (number, heard) in heard.iter().enumerate() {
            let name = format!("call-{number}");
            let heard = heard.as_ref().expect("every call has ended");
            let word = match heard {
                Heard::Whole => "answered".to_owned(),
                Heard::Refusal(status, code) => format!("refused {status} {code}"),
                Heard::Failed(_) => "broken off".to_owned(),
                Heard::Left(_) => "left".to_owned(),
                Heard::Nothing => "killed".to_owned(),
                Heard::Silence => "silence".to_owned(),
            };
            *audit.heard.entry(word).or_default() += 1;
            let attempts = attempts.get(&name).map_or(&[][..], Vec::as_slice);
            match by_name.remove(name.as_str()).as_deref() {
                None => {
                    let known = matches!(heard, Heard::Left(_) | Heard::Nothing);
                    if !known || !attempts.is_empty() {
                        audit.missing += 1;
                        audit.wrong.push(format!("{name}: {heard:?} and no row"));
                    }
                }
                Some([row]) => audit.row(row, heard, attempts),
                Some(rows) => {
                    audit.double += 1;
                    audit.wrong.push(format!("{name}: {rows:?}"));
                }
            }
        }
        for (name, rows) in by_name {
            audit
                .wrong
                .push(format!("nobody has made {name}: {rows:?}"));
        }
        audit
    }

    fn row(&mut self, row: &Row, heard: &Heard, attempts: &[Attempt]) {
        let sum = self
            .sums
            .entry(format!("{} {}", row.status, row.usage_source))
            .or_default();
        sum.rows += 1;
        sum.charged += row.charge();
        sum.cost += row.cost();
        sum.billed += attempts.iter().map(Attempt::bill).sum::<i128>();
        if let Err(why) = check(row, heard, attempts) {
            let entries: Vec<&Entry> = attempts.iter().map(|attempt| &attempt.entry).collect();
            self.wrong.push(format!(
                "{why}: {row:?}; heard {heard:?}; provider {entries:?}"
            ));
        }
    }

    /// The sum of all charges, in pico.
    pub fn charged(&self) -> i128 {
        self.sums.values().map(|sum| sum.charged).sum()
    }

    pub fn assert_nothing_wrong(&self) {
        assert!(
            self.wrong.is_empty(),
            "{} are wrong:\n{}",
            self.wrong.len(),
            self.wrong[..self.wrong.len().min(20)].join("\n")
        );
    }
}

/// The attempts at each call, in their order.
fn attempts(mocks: &[&MockProvider]) -> HashMap<String, Vec<Attempt>> {
    let mut attempts: HashMap<String, Vec<Attempt>> = HashMap::new();
    for mock in mocks {
        let bodies: HashMap<u64, (String, i64)> = mock
            .requests()
            .into_iter()
            .filter_map(|request| {
                let text = String::from_utf8_lossy(&request.body);
                let (_, rest) = text.split_once("<call-")?;
                let (number, _) = rest.split_once('>')?;
                Some((
                    request.seq,
                    (format!("call-{number}"), request.body.len() as i64),
                ))
            })
            .collect();
        for entry in mock.ledger() {
            if let Some((name, bytes)) = bodies.get(&entry.seq) {
                attempts.entry(name.clone()).or_default().push(Attempt {
                    entry,
                    bytes: *bytes,
                });
            }
        }
    }
    for each in attempts.values_mut() {
        each.sort_by_key(|attempt| attempt.entry.started_ms);
    }
    attempts
}

/// Whether a row says what happened.
fn check(row: &Row, heard: &Heard, attempts: &[Attempt]) -> Result<(), &'static str> {
    let is = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
    let last = attempts.last();
    let served = last.filter(|attempt| attempt.answered());
    let bytes = last.map_or(2_000, |attempt| attempt.bytes);
    is(
        row.charge() >= 0 && row.cost() >= row.charge(),
        "the provider is owed less than the caller",
    )?;
    is(row.input_tokens <= bytes, "more tokens than bytes")?;
    match heard {
        Heard::Whole => is(
            row.status == "success" && row.usage_source == "reported",
            "it was answered",
        )?,
        Heard::Refusal(..) => is(
            matches!(&*row.status, "error" | "rejected") && row.charge() == 0,
            "it was refused",
        )?,
        Heard::Failed(_) => is(row.status == "error", "it broke off")?,
        Heard::Left(_) | Heard::Nothing => {}
        Heard::Silence => is(false, "it was not answered, and the gateway lives")?,
    }
    match &*row.status {
        "rejected" => is(
            attempts.is_empty() && row.cost() == 0,
            "rejected, and dispatched",
        ),
        "aborted" => {
            is(
                *heard == Heard::Nothing || matches!(heard, Heard::Left(_)),
                "aborted, and acknowledged",
            )?;
            is(row.usage_source == "partial", "aborted, and known")?;
            is(row.charge() == row.counted(), "not what was counted")?;
            is(
                row.charge() > 0 || attempts.is_empty(),
                "dispatched, and not charged",
            )?;
            let bill = served.map(Attempt::bill);
            is(
                bill.is_none_or(|bill| row.charge() <= bill),
                "more than the bill",
            )
        }
        // An error, or the connection's end, may come after the report.
        "success" | "cancelled" | "error" if row.usage_source == "reported" => {
            let served = served.ok_or("nobody has answered")?;
            let finished = served.entry.outcome == Outcome::Finished;
            is(finished || row.status == "error", "not finished")?;
            is(row.charge() == served.bill(), "not what the provider bills")?;
            failed(row, &attempts[..attempts.len() - 1])
        }
        "cancelled" | "error" if row.usage_source == "partial" => {
            let read = match heard {
                Heard::Failed(read) | Heard::Left(read) => *read as i64,
                _ => 0,
            };
            let sent = served.map_or(-1, |attempt| attempt.entry.completion_tokens);
            is(row.output_tokens >= read, "less than its caller has read")?;
            is(
                row.output_tokens <= sent + 1,
                "more than the provider has sent",
            )?;
            is(row.charge() == row.counted(), "not what was counted")?;
            let before = match served {
                Some(_) => &attempts[..attempts.len() - 1],
                None => attempts,
            };
            failed(row, before)
        }
        // Every provider has failed, or broken off before anything was delivered.
        "error" if row.usage_source == "counted" => {
            let finished = served.is_some_and(|attempt| attempt.entry.outcome == Outcome::Finished);
            is(!finished && row.charge() == 0, "an error, and charged")?;
            failed(row, attempts)
        }
        "cancelled" => is(
            attempts.is_empty() && row.charge() == 0,
            "cancelled, and nothing known",
        ),
        _ => Err("no such row"),
    }
}

/// Whether what a row costs beyond its charge is what these attempts cost.
fn failed(row: &Row, attempts: &[Attempt]) -> Result<(), &'static str> {
    let beyond = row.cost() - row.charge();
    let known: i128 = attempts
        .iter()
        .filter(|attempt| attempt.refused())
        .map(Attempt::bill)
        .sum();
    let unknown = attempts.iter().filter(|attempt| !attempt.refused());
    let most: i128 = unknown.clone().map(|attempt| price(attempt.bytes, 0)).sum();
    match unknown.count() {
        0 if beyond != known => Err("not what failed attempts cost"),
        0 => Ok(()),
        _ if beyond < known || beyond > known + most => Err("out of the bounds of failed attempts"),
        _ => Ok(()),
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = |pico: i128| format!("{:.9}", pico as f64 / 1e12);
        writeln!(f, "callers:")?;
        for (heard, count) in &self.heard {
            writeln!(f, "  {count:>8}  {heard}")?;
        }
        writeln!(
            f,
            "log: {} rows of {} calls; {} attempts at providers; missing {}, double {}, wrong {}",
            self.rows,
            self.calls,
            self.attempts,
            self.missing,
            self.double,
            self.wrong.len()
        )?;
        writeln!(
            f,
            "  {:<22}{:>8}{:>16}{:>16}{:>16}",
            "status, usage", "rows", "charged", "cost", "billed"
        )?;
        for (name, sum) in &self.sums {
            writeln!(
                f,
                "  {name:<22}{:>8}{:>16}{:>16}{:>16}",
                sum.rows,
                units(sum.charged),
                units(sum.cost),
                units(sum.billed)
            )?;
        }
        Ok(())
    }
}
