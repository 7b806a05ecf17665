//! Every method of the trait does what it does on the engine itself.

use std::time::Duration;

use lyss_core::{
    Gateway,
    admission::{KeyChanges, KeyState, NewKey},
    budget::BudgetDefinition,
    gateway::{Members, NewSession, PageQuery, RequestQuery, RoutingRule, UsageQuery},
    price::PriceEntry,
    types::{CallContext, Credential, EmbeddingRequest, IdempotencyKey},
};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{Service, chat, own, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_what_is_said_of_them() {
    let service = Service::start(&json!({"limits": {"rpm": 50}})).await;
    let remote = service.remote("alice");

    let context = CallContext {
        client_request_id: Some("mine-1".into()),
        ..own()
    };
    let report = context.report.clone();
    let body = r#"{"session_id":"s1",  "model":"both","messages":[{"role":"user","content":"hi"}],"x":[1e2]}"#;
    let request = lyss_core::types::ChatRequest::parse(body.into()).unwrap();
    let answer = remote.chat(context, request).await.unwrap();
    assert_eq!(&*answer.info.provider, "openai");
    assert_eq!(&*answer.info.upstream_model, "both");
    assert_eq!(answer.info.session_id.as_deref(), Some("s1"));
    assert_eq!(answer.info.attempts, 1);
    assert!(answer.usage.input_tokens > 0);
    assert_eq!(report.request_id(), Some(answer.info.request_id));
    assert_eq!(report.rate().unwrap().requests.unwrap().limit, 50);
    // It is the row's id, and the caller's own is in the row.
    let rows = service.world.rows(1).await;
    assert_eq!(rows[0].request_id, answer.info.request_id.to_string());
    assert_eq!(rows[0].client_request_id.as_deref(), Some("mine-1"));
    assert_eq!(&*rows[0].user_id, "alice");

    let embedding = r#"{"model":"text-embedding-3-small","input":["a","b"]}"#;
    let embedding = EmbeddingRequest::parse(embedding.into()).unwrap();
    let answer = remote.embed(own(), embedding.clone()).await.unwrap();
    let context = CallContext::new(Credential::Key(service.world.key("alice").unwrap().into()));
    let direct = service
        .world
        .engine
        .embed(context.clone(), embedding)
        .await
        .unwrap();
    assert_eq!(answer.body.to_bytes(), direct.body.to_bytes());
    assert_eq!(answer.usage, direct.usage);

    let counted = remote.count_tokens(own(), chat("gpt-4o", "one two")).await;
    let engine = &service.world.engine;
    let direct = engine.count_tokens(context.clone(), chat("gpt-4o", "one two"));
    assert_eq!(counted.unwrap(), direct.await.unwrap());

    let models = remote.models(own()).await.unwrap();
    assert_eq!(models, engine.models(context.clone()).await.unwrap());
    let id = "simulated/echo";
    assert_eq!(
        remote.model(own(), id).await.unwrap(),
        engine.model(context, id).await.unwrap()
    );
    let health = remote.health().await;
    assert_eq!(health.status, engine.health().await.status);
    assert_eq!(remote.ready().await, engine.ready().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_given_before() {
    let service = Service::start(&json!({})).await;
    let remote = service.remote("alice");
    let named = || CallContext {
        idempotency_key: Some(IdempotencyKey::parse("k1").unwrap()),
        ..own()
    };
    let first = remote.chat(named(), chat("both", "hi")).await.unwrap();
    let again = remote.chat(named(), chat("both", "hi")).await.unwrap();
    assert_eq!(first.body.to_bytes(), again.body.to_bytes());
    assert_eq!(
        (first.info.replay_of, again.info.replay_of),
        (None, Some(first.info.request_id))
    );
    assert_ne!(first.info.request_id, again.info.request_id);
    let other = remote.chat(named(), chat("both", "ho")).await.unwrap_err();
    assert_eq!(other.code(), "idempotency_key_reused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_the_log() {
    let service = Service::start(&json!({})).await;
    let (remote, engine) = (service.remote("admin"), &service.world.engine);
    // An admin speaks for whom it names.
    let of = |user: &str| CallContext {
        user_id: Some(user.into()),
        ..own()
    };
    let direct = |user: &str| CallContext {
        user_id: Some(user.into()),
        ..CallContext::new(Credential::Key(service.world.key("admin").unwrap().into()))
    };
    let id = "s/1 ü&?";
    let new = NewSession {
        id: Some(id.into()),
        metadata: json!({"a": 1}).as_object().cloned(),
        ..NewSession::default()
    };
    let made = remote.create_session(of("u&1"), new).await.unwrap();
    assert_eq!((made.id.as_str(), made.user_id.as_str()), (id, "u&1"));
    for text in ["one", "two"] {
        let body = json!({"model": "both", "session_id": id, "messages": [{"role": "user", "content": text}]});
        let answer = remote.chat(of("u&1"), request(&body)).await.unwrap();
        assert_eq!(answer.info.session_id.as_deref(), Some(id));
    }
    let session = remote.session(of("u&1"), id).await.unwrap();
    assert_eq!(session, engine.session(direct("u&1"), id).await.unwrap());
    assert_eq!(session.message_count, 4);
    let page = remote.session_messages(of("u&1"), id, 1, 2).await.unwrap();
    let same = engine.session_messages(direct("u&1"), id, 1, 2).await;
    assert_eq!(page, same.unwrap());
    assert_eq!(page.messages.len(), 2);

    let fresh = remote.create_session(of("u&1"), NewSession::default());
    assert_ne!(fresh.await.unwrap().id, id);
    let first = PageQuery {
        limit: Some(1),
        ..PageQuery::default()
    };
    let page = remote.sessions(of("u&1"), first).await.unwrap();
    let rest = PageQuery {
        cursor: page.next_cursor.clone(),
        ..PageQuery::default()
    };
    let rest = remote.sessions(of("u&1"), rest).await.unwrap();
    assert_eq!((page.sessions.len(), rest.sessions.len()), (1, 1));
    assert_eq!(rest.next_cursor, None);

    remote.delete_session(of("u&1"), id).await.unwrap();
    let gone = remote.session(of("u&1"), id).await.unwrap_err();
    assert_eq!(gone.code(), "session_not_found");

    service.world.rows(2).await;
    let query = || RequestQuery {
        user_id: Some("u&1".into()),
        model: Some("both".into()),
        ..RequestQuery::default()
    };
    let page = remote.requests(own(), query()).await.unwrap();
    let same = engine.requests(direct("u&1"), query()).await.unwrap();
    assert_eq!((page.data.len(), &page.data), (2, &same.data));
    let row = remote.request(own(), &page.data[0].request_id).await;
    assert_eq!(row.unwrap(), page.data[0]);
    let query = || UsageQuery {
        by: vec!["model".into(), "user".into()],
        ..UsageQuery::default()
    };
    let usage = remote.usage(own(), query()).await.unwrap();
    assert_eq!(usage, engine.usage(direct("u&1"), query()).await.unwrap());
    assert_eq!(usage[0].group["user"], "u&1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_surface() {
    let overlay = json!({"routing": {"egress": {"allow": ["127.0.0.0/8"]}}});
    let service = Service::start(&overlay).await;
    let (remote, engine) = (service.remote("admin"), &service.world.engine);
    let direct = || CallContext::new(Credential::Key(service.world.key("admin").unwrap().into()));

    let rule = RoutingRule {
        id: None,
        model_name: "m".into(),
        provider_id: "backup".into(),
        priority: 1,
        weight: 10,
        max_rps: Some(5),
        is_enabled: true,
        upstream_model: None,
    };
    let mut rule = remote.put_routing_rule(own(), rule).await.unwrap();
    rule.weight = 20;
    let changed = remote.put_routing_rule(own(), rule.clone()).await.unwrap();
    assert_eq!(changed, rule);
    let rules = remote.routing_rules(own()).await.unwrap();
    assert_eq!(rules, engine.routing_rules(direct()).await.unwrap());
    assert!(rules.contains(&rule));
    let id = rule.id.unwrap();
    remote.delete_routing_rule(own(), id).await.unwrap();
    assert!(!remote.routing_rules(own()).await.unwrap().contains(&rule));

    let price: PriceEntry = serde_json::from_value(
        json!({"model": "m", "currency": "USD", "input": "1.25", "output": "10"}),
    )
    .unwrap();
    let mut price = remote.put_price(own(), price).await.unwrap();
    price.max_output_tokens = Some(100);
    assert_eq!(remote.put_price(own(), price.clone()).await.unwrap(), price);
    let prices = remote.prices(own()).await.unwrap();
    assert_eq!(prices, engine.prices(direct()).await.unwrap());
    remote.delete_price(own(), price.id.unwrap()).await.unwrap();
    assert!(!remote.prices(own()).await.unwrap().contains(&price));

    let budget: BudgetDefinition = serde_json::from_value(
        json!({"total": true, "amount": "5", "currency": "USD", "period": "day"}),
    )
    .unwrap();
    let budget = remote.put_budget(own(), budget).await.unwrap();
    let mut changed = (*budget.definition).clone();
    changed.amount = "6".parse().unwrap();
    let changed = remote.put_budget(own(), changed).await.unwrap();
    let budgets = remote.budgets(own()).await.unwrap();
    assert_eq!(budgets, engine.budgets(direct()).await.unwrap());
    assert_eq!(budgets, [changed]);
    let id = budget.definition.id.unwrap();
    remote.delete_budget(own(), id).await.unwrap();
    assert!(remote.budgets(own()).await.unwrap().is_empty());

    let new = NewKey {
        user_id: Some("carol".into()),
        rpm: Some(3),
        expires_ms: Some(4_000_000_000_000),
        ..NewKey::default()
    };
    let issued = remote.create_key(own(), new).await.unwrap();
    let id = issued.key.id.as_str();
    assert_eq!(remote.key(own(), id).await.unwrap(), issued.key);
    let changes = KeyChanges {
        rpm: Some(None),
        tpm: Some(Some(9)),
        ..KeyChanges::default()
    };
    let changed = remote.change_key(own(), id, changes).await.unwrap();
    assert_eq!((changed.rpm, changed.tpm), (None, Some(9)));
    assert_eq!(changed.expires_at, issued.key.expires_at);
    let day = Duration::from_secs(86_400);
    let rotated = remote.rotate_key(own(), id, day).await.unwrap();
    assert_ne!(
        rotated.secret.expose_secret(),
        issued.secret.expose_secret()
    );
    assert!(rotated.key.previous_secret_until.is_some());
    // The new secret speaks for carol.
    let carol = || CallContext::new(Credential::Key(rotated.secret.clone()));
    remote.models(carol()).await.unwrap();
    let refused = remote.keys(carol()).await.unwrap_err();
    assert_eq!((refused.status(), refused.code()), (403, "admin_required"));
    remote.revoke_key(own(), id).await.unwrap();
    let keys = remote.keys(own()).await.unwrap();
    assert_eq!(keys, engine.keys(direct()).await.unwrap());
    let revoked = keys.iter().find(|key| key.id == id).unwrap();
    assert_eq!(revoked.state, KeyState::Revoked);

    let members = |weight: u32| -> Members {
        json!({"kind": "openai", "base_url": service.world.backup.base_url_openai(), "api_key": "sk-of-the-table-1", "weight": weight})
            .as_object()
            .cloned()
            .unwrap()
    };
    let made = remote.put_provider(own(), "stored", members(1), true).await;
    assert_eq!(made.unwrap().id, "stored");
    let twice = remote.put_provider(own(), "stored", members(1), true).await;
    let direct_twice = engine
        .put_provider(direct(), "stored", members(1), true)
        .await
        .unwrap_err();
    assert_eq!(twice.unwrap_err().code(), direct_twice.code());
    let changed = remote
        .put_provider(own(), "stored", members(2), false)
        .await;
    assert_eq!(changed.unwrap().settings["weight"], 2);
    let providers = remote.admin_providers(own()).await.unwrap();
    assert_eq!(providers, engine.admin_providers(direct()).await.unwrap());
    remote.delete_provider(own(), "stored").await.unwrap();
    let left = remote.admin_providers(own()).await.unwrap();
    assert!(left.iter().all(|provider| provider.id != "stored"));
}
