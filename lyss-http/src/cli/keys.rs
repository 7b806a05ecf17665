//! `lyss keys`: make, list and revoke API keys.

use lyss_core::{
    admission::{KeyHasher, KeyStore, NewKey, load_or_create_pepper},
    config::Config,
    types::log::rfc3339,
};
use secrecy::ExposeSecret;

use super::{Failure, Global, Outcome, database, usage::table};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Make a key; its secret is shown once
    Create(Create),
    /// All keys, without their secrets
    List,
    /// Replace a key's secret (not in this version)
    Rotate {
        /// Id of the key
        id: String,
        /// How long the old secret goes on working
        #[arg(long)]
        grace: Option<String>,
    },
    /// Make a key invalid
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
    /// What it may spend, such as 10USD/month (not in this version)
    #[arg(long)]
    budget: Option<String>,
    /// Models it is limited to, comma-separated
    #[arg(long, value_delimiter = ',')]
    models: Option<Vec<String>>,
    /// Open the admin surface to it
    #[arg(long)]
    admin: bool,
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
    // Refused before anything is touched.
    if let Command::Rotate { .. } = command {
        return Err(Failure::Usage(
            "`lyss keys rotate` is not in this version: create a new key, then revoke the old one"
                .into(),
        ));
    }
    if let Command::Create(Create {
        budget: Some(_), ..
    }) = command
    {
        return Err(Failure::Usage(
            "`--budget` is not in this version: a key made with it would not be limited".into(),
        ));
    }
    let config = global.config()?;
    let database = database::open_migrated(&config).await?;
    let store = KeyStore::new(database.clone(), hasher(&config)?);
    match command {
        Command::Create(create) => {
            let created = store
                .create(NewKey {
                    user_id: create.user,
                    name: create.name,
                    admin: create.admin,
                    models: create.models,
                    rpm: create.rpm,
                    tpm: create.tpm,
                    ..NewKey::default()
                })
                .await?;
            eprintln!("key {}; the secret is shown only now:", created.id);
            println!("{}", created.secret.expose_secret());
        }
        Command::List => {
            let mut rows = vec![
                ["id", "user", "name", "admin", "models", "created", "state"]
                    .map(str::to_owned)
                    .to_vec(),
            ];
            for key in store.list().await? {
                let now = jiff::Timestamp::now().as_millisecond();
                let state = match (key.revoked_ms, key.expires_ms) {
                    (Some(_), _) => "revoked",
                    (None, Some(end)) if end <= now => "expired",
                    _ => "active",
                };
                rows.push(vec![
                    key.id.to_string(),
                    key.user_id.as_deref().unwrap_or("-").to_owned(),
                    key.name,
                    if key.admin { "yes" } else { "no" }.to_owned(),
                    key.models
                        .as_deref()
                        .map_or("all".into(), |models| models.join(",")),
                    rfc3339(key.created_ms),
                    state.to_owned(),
                ]);
            }
            print!("{}", table(&rows));
        }
        Command::Revoke { id } => {
            store.revoke(&id).await?;
            eprintln!("key {id} is revoked");
        }
        Command::Rotate { .. } => {}
    }
    database.close().await;
    Ok(())
}
