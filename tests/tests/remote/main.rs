//! A service called through [`RemoteGateway`], over its own accept loop: every method, what faults look like, and that
//! nothing is lost on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faults;
mod methods;
mod streams;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lyss_core::{
    RemoteGateway,
    remote::RemoteOptions,
    types::{CallContext, ChatRequest, Credential},
};
use lyss_http::{
    RouterOptions, Shutdown,
    serve::{ServeOptions, bind, serve},
};
use lyss_mock_provider::Entry;
use lyss_tests::world::World;
use serde_json::{Value, json};

/// A world whose engine is served.
struct Service {
    world: World,
    address: SocketAddr,
    shutdown: Shutdown,
}

impl Service {
    async fn start(overlay: &Value) -> Self {
        Self::with(overlay, RouterOptions::default(), ServeOptions::default()).await
    }

    async fn with(overlay: &Value, router: RouterOptions, options: ServeOptions) -> Self {
        let world = World::start(overlay).await;
        let shutdown = Shutdown::default();
        let router = RouterOptions {
            shutdown: shutdown.clone(),
            ..router
        };
        let router = lyss_http::router(Arc::new(world.engine.clone()), router);
        let listener = bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, router, options, shutdown.clone()));
        Self {
            world,
            address,
            shutdown,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A gateway whose own key is that of `name`.
    fn remote(&self, name: &str) -> RemoteGateway {
        let options = RemoteOptions {
            api_key: self.world.key(name).map(Into::into),
            ..RemoteOptions::new(self.url())
        };
        RemoteGateway::connect(options).unwrap()
    }

    /// The provider's entry of a model, once it has ended.
    async fn ended(&self, model: &str) -> Entry {
        for _ in 0..400 {
            let ledger = self.world.openai.ledger();
            let mut entries = ledger.into_iter().filter(|entry| entry.model == model);
            if let Some(entry) = entries.next().filter(|entry| entry.ended_ms.is_some()) {
                return entry;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{model}: the provider still works on it");
    }
}

/// A call for this process.
fn own() -> CallContext {
    CallContext::new(Credential::Process)
}

fn chat(model: &str, text: &str) -> ChatRequest {
    request(&json!({"model": model, "messages": [{"role": "user", "content": text}]}))
}

fn streamed(model: &str, text: &str) -> ChatRequest {
    request(
        &json!({"model": model, "messages": [{"role": "user", "content": text}], "stream": true}),
    )
}

fn request(body: &Value) -> ChatRequest {
    ChatRequest::parse(body.to_string().into()).unwrap()
}
