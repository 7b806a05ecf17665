//! `lyss usage`: totals of the request log.

use std::fmt::Write;

use lyss_core::gateway::{UsageQuery, UsageTotal};

use super::{Failure, Global, Outcome, database};

#[derive(clap::Args)]
pub(super) struct Args {
    /// From this time on (RFC 3339 or a date)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Before this time (RFC 3339 or a date)
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// What to group by: day, model, user, key, provider
    #[arg(long, value_delimiter = ',', default_value = "day,model")]
    by: Vec<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

const NUMBERS: [&str; 6] = [
    "requests",
    "failed_requests",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
];

pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let config = global.config()?;
    let database = database::open_migrated(&config).await?;
    let query = UsageQuery {
        from: args.from,
        to: args.to,
        by: args.by.clone(),
        user_id: None,
    };
    let totals = database.usage(&query, None).await?;
    match args.format {
        Format::Json => {
            let json = serde_json::to_string_pretty(&totals).map_err(Failure::outside)?;
            println!("{json}");
        }
        Format::Table => print!("{}", table(&rows(&args.by, &totals))),
        Format::Csv => print!("{}", csv(&rows(&args.by, &totals))),
    }
    database.close().await;
    Ok(())
}

fn rows(by: &[String], totals: &[UsageTotal]) -> Vec<Vec<String>> {
    let head = by.iter().cloned().chain(NUMBERS.map(str::to_owned));
    let mut rows = vec![head.collect::<Vec<_>>()];
    for total in totals {
        let group = by
            .iter()
            .map(|name| total.group.get(name).cloned().unwrap_or_default());
        let numbers = [
            total.requests,
            total.failed_requests,
            total.input_tokens,
            total.output_tokens,
            total.cached_tokens,
            total.reasoning_tokens,
        ];
        rows.push(
            group
                .chain(numbers.map(|number| number.to_string()))
                .collect(),
        );
    }
    rows
}

/// Rows in aligned columns, the first row as the head; numbers to the right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let shape: Vec<(usize, bool)> = (0..columns)
        .map(|column| {
            let width = rows
                .iter()
                .map(|row| cell(row, column).chars().count())
                .max();
            let number = rows.len() > 1
                && rows
                    .iter()
                    .skip(1)
                    .all(|row| cell(row, column).parse::<u64>().is_ok());
            (width.unwrap_or(0), number)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (width, number)) in shape.iter().enumerate() {
            let text = cell(row, column);
            let _ = if *number {
                write!(line, "{text:>width$}  ")
            } else {
                write!(line, "{text:<width$}  ")
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// RFC 4180, with `\n`. A cell that a spreadsheet would run as a formula is kept as text.
fn csv(rows: &[Vec<String>]) -> String {
    let cell = |text: &String| {
        let guarded = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
            format!("'{text}")
        } else {
            text.clone()
        };
        if guarded.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", guarded.replace('"', "\"\""))
        } else {
            guarded
        }
    };
    rows.iter()
        .map(|row| row.iter().map(cell).collect::<Vec<_>>().join(",") + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Vec<String>> {
        let total = |model: &str, requests| UsageTotal {
            group: [("model".to_owned(), model.to_owned())].into(),
            requests,
            ..UsageTotal::default()
        };
        rows(
            &["model".into()],
            &[total("通义,max", 7), total("=a", 12345)],
        )
    }

    #[test]
    fn columns_are_aligned() {
        let text = table(&sample());
        let mut lines = text.lines();
        assert!(
            lines
                .next()
                .is_some_and(|head| head.starts_with("model   requests"))
        );
        assert!(
            lines
                .next()
                .is_some_and(|line| line.starts_with("通义,max         7"))
        );
        assert!(
            lines
                .next()
                .is_some_and(|line| line.starts_with("=a         12345"))
        );
    }

    #[test]
    fn cells_are_quoted_and_no_formulas() {
        let text = csv(&sample());
        assert!(text.contains("\n\"通义,max\",7,0,"), "{text}");
        assert!(text.contains("\n'=a,12345,0,"), "{text}");
    }
}
