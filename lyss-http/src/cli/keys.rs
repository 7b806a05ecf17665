//! `lyss keys`: make, list, rotate and revoke API keys.

use std::time::Duration;

use lyss_core::{
    admission::{
        ApiKey, KeyBudget, KeyHasher, KeyStore, NewKey, Scope, Scopes, load_or_create_pepper,
    },
    config::{BudgetPeriod, Config, parse_duration},
    types::{DrainBounds, OnDisconnect},
};
use secrecy::ExposeSecret;

use super::{Failure, Global, Outcome, database, usage::table};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Make a key; its secret is shown once
    Create(Create),
    /// All keys, without their secrets
    List,
    /// Replace a key's secret; the new one is shown once
    Rotate {
        /// Id of the key
        id: String,
        /// How long the old secret goes on working; 0s where it is known to others
        #[arg(long, default_value = "24h", value_parser = grace)]
        grace: Duration,
    },
    /// Make a key invalid, at once and for good
    Revoke {
        /// Id of the key
        id: String,
    },
}

#[derive(clap::Args)]
pub(super) struct Create {
    /// The user whom calls with this key are made for
    #[arg(long, required_unless_present = "admin")]
    user: Option<String>,
    /// What to call it
    #[arg(long, default_value = "")]
    name: String,
    /// Requests in any 60 seconds
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rpm: Option<u64>,
    /// Tokens in any 60 seconds
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    tpm: Option<u64>,
    /// Requests at once
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    concurrent: Option<u64>,
    /// What it may spend, such as 10USD/month; day, month or total
    #[arg(long, value_name = "BUDGET")]
    budget: Option<String>,
    /// What becomes of a call whose caller goes away: cancel, drain, or drain_until=30s,2000tokens (either or both)
    #[arg(long, value_name = "RULE", value_parser = on_disconnect)]
    on_disconnect: Option<OnDisconnect>,
    /// Models it is limited to, comma-separated
    #[arg(long, value_delimiter = ',')]
    models: Option<Vec<String>>,
    /// What it may be used for, comma-separated: chat, embeddings, sessions, usage, admin; all but admin if not given
    #[arg(long, value_delimiter = ',', value_parser = scope)]
    scopes: Option<Vec<Scope>>,
    /// When it ends, such as 90d from now
    #[arg(long, value_parser = parse_duration)]
    expires: Option<Duration>,
    /// Open the admin surface to it
    #[arg(long)]
    admin: bool,
}

fn scope(name: &str) -> Result<Scope, String> {
    Scope::from_name(name).ok_or_else(|| {
        let accepted = Scope::ALL.map(Scope::name).join(", ");
        format!("there is no such scope; accepted: {accepted}")
    })
}

/// Reads `cancel`, `drain` and `drain_until=30s,2000tokens`.
fn on_disconnect(text: &str) -> Result<OnDisconnect, String> {
    let bounds = match text {
        "cancel" => return Ok(OnDisconnect::Cancel),
        "drain" => return Ok(OnDisconnect::Drain),
        other => other.strip_prefix("drain_until="),
    };
    let wrong = || "accepted: cancel, drain, drain_until=30s, drain_until=2000tokens, or both bounds with a comma";
    let mut until = DrainBounds::default();
    for bound in bounds.ok_or_else(wrong)?.split(',') {
        match bound.strip_suffix("tokens") {
            Some(tokens) => until.tokens = Some(tokens.trim().parse().map_err(|_| wrong())?),
            None => until.seconds = Some(parse_duration(bound)?.as_secs()),
        }
    }
    Ok(OnDisconnect::DrainUntil(until))
}

fn grace(text: &str) -> Result<Duration, String> {
    match text.trim() {
        "0" | "0s" => Ok(Duration::ZERO),
        text => parse_duration(text),
    }
}

/// Reads `10USD/month`; without a currency it is the one of totals.
fn budget(text: &str, currency: &str) -> Result<KeyBudget, Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "`{text}` is not a budget: write an amount, a currency and a period, such as 10USD/month"
        ))
    };
    let (amount, period) = text.split_once('/').ok_or_else(wrong)?;
    let digits = amount
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(amount.len());
    let (amount, named) = amount.split_at(digits);
    let periods = [BudgetPeriod::Day, BudgetPeriod::Month, BudgetPeriod::Total];
    let period = periods
        .into_iter()
        .find(|known| known.name() == period)
        .ok_or_else(wrong)?;
    Ok(KeyBudget {
        amount: amount.parse().map_err(|_| wrong())?,
        currency: match named {
            "" => currency.into(),
            named => named.into(),
        },
        period,
    })
}

impl Create {
    fn into_key(self, config: &Config) -> Result<NewKey, Failure> {
        let currency = &config.billing.currency;
        let budget = self.budget.as_deref();
        let expires = self.expires.map(|after| {
            let now = jiff::Timestamp::now().as_millisecond();
            now.saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX))
        });
        Ok(NewKey {
            user_id: self.user,
            name: self.name,
            admin: self.admin,
            scopes: self
                .scopes
                .map(|scopes| scopes.into_iter().collect::<Scopes>()),
            models: self.models,
            rpm: self.rpm,
            tpm: self.tpm,
            concurrent: self.concurrent,
            budget: budget
                .map(|text| self::budget(text, currency))
                .transpose()?,
            on_disconnect: self.on_disconnect,
            expires_ms: expires,
        })
    }
}

/// The hasher of this installation: keys made here are known to the gateway on the same data directory or pepper.
pub(super) fn hasher(config: &Config) -> Result<KeyHasher, lyss_core::Error> {
    let pepper = match &config.auth.pepper {
        Some(pepper) => pepper.expose().as_bytes().to_vec(),
        None => load_or_create_pepper(config.data.path())?,
    };
    KeyHasher::new(&pepper)
}

pub(super) async fn run(global: &Global, command: Command) -> Outcome {
    let config = global.config()?;
    // What cannot be is refused before anything is touched.
    let command = match command {
        Command::Create(create) => Ready::Create(create.into_key(&config)?),
        Command::List => Ready::List,
        Command::Rotate { id, grace } => Ready::Rotate(id, grace),
        Command::Revoke { id } => Ready::Revoke(id),
    };
    let database = database::open_migrated(&config).await?;
    let store = KeyStore::new(database.clone(), hasher(&config)?);
    match command {
        Ready::Create(new) => {
            let created = store.create(new).await?;
            eprintln!("key {}; the secret is shown only now:", created.id);
            println!("{}", created.secret.expose_secret());
        }
        Ready::List => {
            let keys = store.list().await?;
            print!("{}", table(&listed(keys.iter().map(ApiKey::from))));
        }
        Ready::Rotate(id, grace) => {
            let rotated = store.rotate(&id, grace).await?;
            match grace.is_zero() {
                true => eprintln!("key {id}: the old secret is invalid"),
                false => eprintln!(
                    "key {id}: the old secret works for another {}",
                    lyss_core::config::format_duration(grace)
                ),
            }
            eprintln!("the new secret is shown only now:");
            println!("{}", rotated.secret.expose_secret());
        }
        Ready::Revoke(id) => {
            store.revoke(&id).await?;
            eprintln!("key {id} is revoked");
        }
    }
    database.close().await;
    Ok(())
}

/// A command that can be run.
enum Ready {
    Create(NewKey),
    List,
    Rotate(String, Duration),
    Revoke(String),
}

fn listed(keys: impl Iterator<Item = ApiKey>) -> Vec<Vec<String>> {
    let heads = [
        "id", "user", "name", "scopes", "models", "limits", "budget", "created", "expires", "state",
    ];
    let rows = keys.map(|key| {
        let limits = [
            ("rpm", key.rpm),
            ("tpm", key.tpm),
            ("concurrent", key.concurrent),
        ];
        let limits: Vec<String> = limits
            .iter()
            .filter_map(|(name, limit)| limit.map(|limit| format!("{name}={limit}")))
            .collect();
        let scopes: Vec<&str> = key.scopes.iter().map(Scope::name).collect();
        let dash = |text: String| match text.is_empty() {
            true => "-".to_owned(),
            false => text,
        };
        vec![
            key.id,
            key.user_id.as_deref().unwrap_or("-").to_owned(),
            key.name,
            dash(scopes.join(",")),
            key.models
                .map_or_else(|| "all".to_owned(), |models| models.join(",")),
            dash(limits.join(",")),
            key.budget.map_or_else(
                || "-".to_owned(),
                |budget| {
                    let (amount, period) = (budget.amount, budget.period.name());
                    format!("{amount}{}/{period}", budget.currency)
                },
            ),
            key.created_at,
            key.expires_at.unwrap_or_else(|| "-".to_owned()),
            key.state.name().to_owned(),
        ]
    });
    let heads = heads.map(str::to_owned).to_vec();
    std::iter::once(heads).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn budgets() {
        let read = |text: &str| {
            budget(text, "CNY").ok().map(|budget| {
                let (amount, period) = (budget.amount, budget.period.name());
                format!("{amount} {} {period}", budget.currency)
            })
        };
        assert_eq!(read("10USD/month").as_deref(), Some("10 USD month"));
        assert_eq!(read("0.5/day").as_deref(), Some("0.5 CNY day"));
        for wrong in ["10USD", "USD/day", "10USD/week", "-/day", "1 0USD/day"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(grace("0s").unwrap(), Duration::ZERO);
    }

    #[test]
    fn rules_for_callers_that_go_away() {
        let until = |seconds, tokens| OnDisconnect::DrainUntil(DrainBounds { seconds, tokens });
        for (text, rule) in [
            ("cancel", OnDisconnect::Cancel),
            ("drain", OnDisconnect::Drain),
            ("drain_until=30s", until(Some(30), None)),
            ("drain_until=2000tokens", until(None, Some(2000))),
            ("drain_until=1m,500tokens", until(Some(60), Some(500))),
        ] {
            assert_eq!(on_disconnect(text), Ok(rule), "{text}");
        }
        for wrong in [
            "",
            "drain_until=",
            "drain_until=soon",
            "drain_until=tokens",
            "30s",
        ] {
            assert!(on_disconnect(wrong).is_err(), "{wrong}");
        }
    }
}
