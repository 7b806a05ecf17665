//! Serves [`lyss_examples::app`] on 127.0.0.1:8080.

use std::error::Error;

use lyss_examples::app;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let engine = app::engine(&std::env::temp_dir().join("lyss-example-app")).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    println!("try: curl -d 'hello' http://127.0.0.1:8080/shout");
    println!("and: curl http://127.0.0.1:8080/ai/v1/models");
    axum::serve(listener, app::router(engine)).await?;
    Ok(())
}
