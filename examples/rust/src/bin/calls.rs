//! Makes the calls of [`lyss_examples::calls`], with an engine in this process or with the service whose address is
//! given: `cargo run -p lyss-examples -- [http://127.0.0.1:8000]`. The service is started with `examples/offline.yaml`.

use std::{error::Error, sync::Arc};

use lyss_core::{Engine, Gateway, RemoteGateway, config::Config, remote::RemoteOptions};
use lyss_examples::calls;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (gateway, engine): (Arc<dyn Gateway>, _) = match std::env::args().nth(1) {
        Some(url) => (
            Arc::new(RemoteGateway::connect(RemoteOptions::new(url))?),
            None,
        ),
        None => {
            let engine = start().await?;
            (Arc::new(engine.clone()), Some(engine))
        }
    };
    let gateway = &*gateway;
    println!("quick start: {}", calls::quick_start(gateway).await?);
    println!("streaming:   {}", calls::streaming(gateway).await?);
    println!("tools:       {}", calls::tools(gateway).await?);
    println!("session:     {}", calls::session(gateway).await?);
    println!("budget:      {}", calls::budget(gateway).await?);
    println!("fallback:    {}", calls::fallback(gateway).await?);
    if let Some(engine) = engine {
        engine.shutdown(std::time::Duration::from_secs(5)).await;
    }
    Ok(())
}

async fn start() -> Result<Engine, Box<dyn Error>> {
    let mut config = match Config::parse("calls", calls::CONFIG, &Default::default()) {
        Ok(loaded) => loaded.config,
        Err(errors) => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(errors.join("\n").into());
        }
    };
    config.data.dir = Some(std::env::temp_dir().join("lyss-examples"));
    Ok(Engine::start(config).await?)
}
