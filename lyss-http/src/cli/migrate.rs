//! `lyss migrate`.

use super::{Global, Outcome};

pub(super) async fn run(global: &Global) -> Outcome {
    let config = global.config()?;
    let database = super::database::open(&config)?;
    let applied = database.migrate().await?;
    if applied.is_empty() {
        println!(
            "nothing to do: the {} database is up to date",
            database.driver()
        );
    }
    for migration in applied {
        println!("applied {migration}");
    }
    database.close().await;
    Ok(())
}
