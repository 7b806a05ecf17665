//! `lyss usage`: totals of the request log.

use std::fmt::Write;

use lyss_core::{
    billing::RerateQuery,
    config::Config,
    database::Database,
    gateway::{CostTotal, UsageQuery, UsageTotal},
    price::Exchange,
    types::Pico,
};

use super::{Failure, Global, Outcome, database};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
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

#[derive(clap::Subcommand)]
enum Command {
    /// Compute charges anew by the prices in force now: what they differ by is kept as corrections beside the rows
    Rerate(RerateArgs),
}

#[derive(clap::Args)]
struct RerateArgs {
    /// From this time on (RFC 3339 or a date)
    #[arg(long, value_name = "TIME")]
    from: String,
    /// Before this time (RFC 3339 or a date); up to now, if left out
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

const COLUMNS: [&str; 10] = [
    "requests",
    "failed_requests",
    "unpriced_requests",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "user_charge",
    "provider_cost",
    "currency",
];

pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let config = global.config()?;
    let query = UsageQuery {
        from: args.from,
        to: args.to,
        by: args.by.clone(),
        user_id: None,
    };
    query.check()?;
    let database = database::open_migrated(&config).await?;
    if let Some(Command::Rerate(args)) = args.command {
        return rerate(&config, &database, args).await;
    }
    let exchange = Exchange::new(&config.billing);
    let mut totals = database.usage(&query, None, &exchange).await?;
    sort(&mut totals, &args.by);
    match args.format {
        Format::Json => {
            let json = serde_json::to_string_pretty(&totals).map_err(Failure::outside)?;
            println!("{json}");
        }
        Format::Table => {
            let mut rows = rows(&args.by, &totals);
            if totals.len() > 1 {
                rows.push(row(&args.by, &sum(&totals, &exchange)));
                let label = rows.last_mut().and_then(|row| row.first_mut());
                if let Some(label) = label.filter(|_| !args.by.is_empty()) {
                    label.push_str("total");
                }
            }
            print!("{}", table(&rows));
        }
        Format::Csv => print!("{}", csv(&rows(&args.by, &totals))),
    }
    database.close().await;
    Ok(())
}

async fn rerate(config: &Config, database: &Database, args: RerateArgs) -> Outcome {
    let query = RerateQuery {
        from: args.from,
        to: args.to,
        dry_run: args.dry_run,
    };
    let rerated = database.rerate(&query, config).await?;
    database.close().await;
    let (verb, note) = if args.dry_run {
        ("would change", " (dry run)")
    } else {
        ("changed", "")
    };
    println!(
        "{} requests looked at, {} {verb}, {} left as they are for want of a price{note}",
        rerated.rows, rerated.changed, rerated.unpriced
    );
    if !rerated.by_currency.is_empty() {
        let head = ["currency", "user_charge", "provider_cost"].map(str::to_owned);
        let by = rerated.by_currency.iter().map(|by| {
            vec![
                by.currency.clone(),
                by.user_charge.to_string(),
                by.provider_cost.to_string(),
            ]
        });
        let rows: Vec<_> = std::iter::once(head.to_vec()).chain(by).collect();
        print!("{}", table(&rows));
    }
    Ok(())
}

/// By the first column, then by the second, and so on.
fn sort(totals: &mut [UsageTotal], by: &[String]) {
    let cells = |total: &UsageTotal| -> Vec<_> {
        by.iter()
            .map(|name| total.group.get(name).cloned())
            .collect()
    };
    totals.sort_by_cached_key(cells);
}

fn rows(by: &[String], totals: &[UsageTotal]) -> Vec<Vec<String>> {
    let head = by.iter().cloned().chain(COLUMNS.map(str::to_owned));
    let rows = totals.iter().map(|total| row(by, total));
    std::iter::once(head.collect()).chain(rows).collect()
}

fn row(by: &[String], total: &UsageTotal) -> Vec<String> {
    let group = by
        .iter()
        .map(|name| total.group.get(name).cloned().unwrap_or_default());
    let numbers = [
        total.requests,
        total.failed_requests,
        total.unpriced_requests,
        total.input_tokens,
        total.output_tokens,
        total.cached_tokens,
        total.reasoning_tokens,
    ];
    group
        .chain(numbers.map(|number| number.to_string()))
        .chain(cost(&total.cost))
        .collect()
}

/// In the currency of totals; where one has no exchange rate, what there is of each currency.
fn cost(cost: &CostTotal) -> [String; 3] {
    if let (Some(charge), Some(provider)) = (cost.user_charge, cost.provider_cost) {
        return [
            charge.to_string(),
            provider.to_string(),
            cost.currency.clone(),
        ];
    }
    let joined = |part: &dyn Fn(usize) -> Option<String>| {
        let parts: Vec<String> = (0..cost.by_currency.len()).filter_map(part).collect();
        parts.join(" + ")
    };
    let of = |index: usize| cost.by_currency.get(index);
    [
        joined(&|index| of(index).map(|cost| cost.user_charge.to_string())),
        joined(&|index| of(index).map(|cost| cost.provider_cost.to_string())),
        joined(&|index| of(index).map(|cost| cost.currency.clone())),
    ]
}

/// All groups together.
fn sum(totals: &[UsageTotal], exchange: &Exchange) -> UsageTotal {
    let mut all = UsageTotal::default();
    for total in totals {
        all.requests += total.requests;
        all.failed_requests += total.failed_requests;
        all.unpriced_requests += total.unpriced_requests;
        all.input_tokens += total.input_tokens;
        all.output_tokens += total.output_tokens;
        all.cached_tokens += total.cached_tokens;
        all.reasoning_tokens += total.reasoning_tokens;
        for cost in &total.cost.by_currency {
            let known = &mut all.cost.by_currency;
            match known.iter_mut().find(|sum| sum.currency == cost.currency) {
                Some(sum) => {
                    let add = |sum: Pico, amount| sum.checked_add(amount).unwrap_or(sum);
                    sum.user_charge = add(sum.user_charge, cost.user_charge);
                    sum.provider_cost = add(sum.provider_cost, cost.provider_cost);
                }
                None => known.push(cost.clone()),
            }
        }
    }
    all.cost.sum_up(exchange);
    all
}

/// Rows in aligned columns, the first row as the head; numbers to the right, their points below each other.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let mut rows = rows.to_vec();
    let columns = rows.first().map_or(0, Vec::len);
    let mut shape = Vec::new();
    for column in 0..columns {
        let cells: Vec<&mut String> = rows
            .iter_mut()
            .filter_map(|row| row.get_mut(column))
            .collect();
        let number = cells.len() > 1 && cells.iter().skip(1).all(|cell| is_number(cell));
        if number {
            align_points(cells);
        }
        let width = rows.iter().filter_map(|row| row.get(column));
        let width = width.map(|cell| cell.chars().count()).max();
        shape.push((width.unwrap_or(0), number));
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, (width, number)) in row.iter().zip(&shape) {
            let _ = if *number {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn is_number(cell: &str) -> bool {
    cell.parse::<Pico>().is_ok()
}

/// Gives all numbers of a column as many decimals as one of them has.
fn align_points(cells: Vec<&mut String>) {
    let decimals = |cell: &str| {
        cell.split_once('.')
            .map_or(0, |(_, decimals)| decimals.len())
    };
    let most = cells.iter().skip(1).map(|cell| decimals(cell)).max();
    let most = most.unwrap_or(0);
    for cell in cells.into_iter().skip(1) {
        let missing = most - decimals(cell);
        if missing > 0 && !cell.contains('.') {
            cell.push('.');
        }
        cell.extend(std::iter::repeat_n('0', missing));
    }
}

/// RFC 4180, with `\n`. A cell that a spreadsheet would run as a formula is kept as text.
fn csv(rows: &[Vec<String>]) -> String {
    let cell = |text: &String| {
        let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !is_number(text);
        let guarded = if formula {
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
    use lyss_core::gateway::CurrencyCost;

    use super::*;

    fn costing(model: &str, costs: &[(&str, i128)]) -> UsageTotal {
        let mut total = UsageTotal {
            group: [("model".to_owned(), model.to_owned())].into(),
            ..UsageTotal::default()
        };
        total.cost.by_currency = costs
            .iter()
            .map(|(currency, pico)| CurrencyCost {
                currency: (*currency).to_owned(),
                user_charge: Pico(*pico),
                provider_cost: Pico(*pico),
            })
            .collect();
        total.cost.sum_up(&dollars());
        total
    }

    fn dollars() -> Exchange {
        Exchange::new(&lyss_core::config::BillingConfig::default())
    }

    #[test]
    fn amounts_are_aligned_and_summed_up() {
        let by = ["model".to_owned()];
        let totals = [
            costing("a", &[("USD", 1_500_000_000_000)]),
            costing("b", &[("USD", 12_000_000_000_000_000)]),
            costing("c", &[]),
        ];
        let mut lines = rows(&by, &totals);
        lines.push(row(&by, &sum(&totals, &dollars())));
        let text = table(&lines);
        let cells: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().rev().take(3).collect())
            .collect();
        assert_eq!(
            cells,
            [
                ["currency", "provider_cost", "user_charge"],
                ["USD", "1.5", "1.5"],
                ["USD", "12000.0", "12000.0"],
                ["USD", "0.0", "0.0"],
                ["USD", "12001.5", "12001.5"],
            ],
            "{text}"
        );
        let points: std::collections::BTreeSet<_> = text
            .lines()
            .skip(1)
            .map(|line| (line.find('.'), line.rfind('.')))
            .collect();
        assert_eq!(points.len(), 1, "{text}");
    }

    #[test]
    fn without_a_rate_each_currency_is_shown() {
        let total = costing("a", &[("CNY", 1_000_000_000_000), ("USD", 500_000_000_000)]);
        assert_eq!(cost(&total.cost), ["1 + 0.5", "1 + 0.5", "CNY + USD"]);
    }

    #[test]
    fn rows_are_sorted_by_the_columns_asked_for() {
        let total = |(user, model): (&str, &str)| UsageTotal {
            group: [("model", model), ("user", user)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..UsageTotal::default()
        };
        let mut totals = [("bob", "a"), ("alice", "b"), ("alice", "a")].map(total);
        let mut sorted = |by: &[&str]| {
            sort(
                &mut totals,
                &by.iter().map(ToString::to_string).collect::<Vec<_>>(),
            );
            totals
                .iter()
                .map(|total| format!("{} {}", total.group["user"], total.group["model"]))
                .collect::<Vec<_>>()
        };
        assert_eq!(sorted(&["user", "model"]), ["alice a", "alice b", "bob a"]);
        assert_eq!(sorted(&["model", "user"]), ["alice a", "bob a", "alice b"]);
    }

    #[test]
    fn a_time_that_ends_before_it_begins_is_an_error() {
        let check = |from: &str, to: &str| {
            let query = UsageQuery {
                from: Some(from.to_owned()),
                to: Some(to.to_owned()),
                ..UsageQuery::default()
            };
            query
                .check()
                .map_err(|error| error.param().map(str::to_owned))
        };
        assert_eq!(check("2026-11-02", "2026-11-01"), Err(Some("from".into())));
        assert_eq!(
            check("2026-11-01T00:00:01Z", "2026-11-01"),
            Err(Some("from".into()))
        );
        assert_eq!(check("2026-11-01", "2026-11-01"), Ok(()));
    }

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
