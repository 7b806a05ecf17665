//! What a program asks of a gateway. Each of these works with an engine and with a service.

use futures::StreamExt;
use lyss_core::{
    ErrorKind, Gateway, Result,
    budget::BudgetDefinition,
    config::BudgetPeriod,
    types::{CallContext, ChatRequest, Pico},
};
use serde_json::{Value, json};

/// Who the calls are made for.
const USER: &str = "u1";

fn chat(body: Value) -> Result<ChatRequest> {
    ChatRequest::parse(body.to_string().into())
}

/// The first text of an answer.
fn text(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = body["choices"][0]["message"]["content"].as_str();
    text.unwrap_or_default().to_owned()
}

/// One question, one answer.
///
/// # Errors
/// What the call may end as.
pub async fn quick_start(gateway: &dyn Gateway) -> Result<String> {
    let request = chat(json!({
        "model": "simulated/echo",
        "messages": [{"role": "user", "content": "hello"}],
    }))?;
    let answer = gateway.chat(CallContext::process(USER), request).await?;
    let tokens = answer.usage.total_tokens();
    let text = text(&answer.body.to_bytes());
    Ok(format!(
        "{} says: {text} ({tokens} tokens)",
        answer.info.provider
    ))
}

/// An answer as it comes. Dropping the stream stops the provider.
///
/// # Errors
/// What the call, or its answer, may end as.
pub async fn streaming(gateway: &dyn Gateway) -> Result<String> {
    let request = chat(json!({
        "model": "simulated/echo",
        "messages": [{"role": "user", "content": "one two three"}],
        "stream": true,
    }))?;
    let mut stream = gateway
        .chat_stream(CallContext::process(USER), request)
        .await?;
    let mut pieces = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk: Value = serde_json::from_slice(&chunk?.json()).unwrap_or_default();
        if let Some(piece) = chunk["choices"][0]["delta"]["content"].as_str() {
            pieces.push(piece.to_owned());
        }
    }
    Ok(pieces.join("|"))
}

/// A tool that the model must call, and what it calls it with.
///
/// # Errors
/// What the call may end as.
pub async fn tools(gateway: &dyn Gateway) -> Result<String> {
    let request = chat(json!({
        "model": "simulated/echo",
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        }}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    }))?;
    let answer = gateway.chat(CallContext::process(USER), request).await?;
    let body: Value = serde_json::from_slice(&answer.body.to_bytes()).unwrap_or_default();
    let call = &body["choices"][0]["message"]["tool_calls"][0]["function"];
    Ok(format!(
        "{}({})",
        call["name"].as_str().unwrap_or_default(),
        call["arguments"]
    ))
}

/// A conversation that the gateway keeps: only what is new is sent.
///
/// # Errors
/// What the calls may end as.
pub async fn session(gateway: &dyn Gateway) -> Result<String> {
    let mut session = "new".to_owned();
    for text in ["My name is Ada.", "What is my name?"] {
        let request = chat(json!({
            "model": "simulated/echo",
            "session_id": session,
            "messages": [{"role": "user", "content": text}],
        }))?;
        let answer = gateway.chat(CallContext::process(USER), request).await?;
        session = answer.info.session_id.as_deref().unwrap_or_default().into();
    }
    let stored = gateway
        .session(CallContext::process(USER), &session)
        .await?;
    gateway
        .delete_session(CallContext::process(USER), &session)
        .await?;
    Ok(format!("{} messages were stored", stored.message_count))
}

/// A budget, and the call that it does not cover. Needs the right to administer.
///
/// # Errors
/// What the calls may end as.
pub async fn budget(gateway: &dyn Gateway) -> Result<String> {
    let spender = "spender";
    let budget = BudgetDefinition {
        user: Some(spender.into()),
        amount: Pico::ZERO,
        currency: Some("USD".into()),
        period: BudgetPeriod::Day,
        ..BudgetDefinition::default()
    };
    let admin = || CallContext::process(USER);
    let budget = gateway.put_budget(admin(), budget).await?;
    let request = chat(json!({
        "model": "priced",
        "messages": [{"role": "user", "content": "hello"}],
    }))?;
    let refused = gateway.chat(CallContext::process(spender), request).await;
    if let Some(id) = budget.definition.id {
        gateway.delete_budget(admin(), id).await?;
    }
    match refused {
        Err(error) if error.kind() == ErrorKind::BudgetExceeded => {
            Ok(format!("status {}: {}", error.status(), error.message()))
        }
        Err(error) => Err(error),
        Ok(_) => Ok("the budget covered it".into()),
    }
}

/// A model that two providers serve, the first of which fails.
///
/// # Errors
/// What the call may end as.
pub async fn fallback(gateway: &dyn Gateway) -> Result<String> {
    let request = chat(json!({
        "model": "sturdy",
        "messages": [{"role": "user", "content": "hello"}],
    }))?;
    let answer = gateway.chat(CallContext::process(USER), request).await?;
    let info = answer.info;
    Ok(format!(
        "{} answered at attempt {}",
        info.provider, info.attempts
    ))
}

/// The configuration that these calls are made for.
pub const CONFIG: &str = r#"
auth: { mode: none, default_user: local }
monitoring: { prometheus: { enabled: false } }
providers:
  simulated: {}
  flaky: { kind: simulated, options: { faults: { status: 503 } } }
routing:
  default_provider: simulated
  health_check: { enabled: false }
  rules:
    - { model: sturdy, provider: flaky, priority: 1 }
    - { model: sturdy, provider: simulated, priority: 2 }
    - { model: priced, provider: simulated }
billing:
  prices:
    simulated/priced: { input: 1, output: 2 }
"#;
