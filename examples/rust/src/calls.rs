//! What a program asks of a gateway. Each of these works with an engine and with a service.

use futures::StreamExt;
use lyss_core::{
    ErrorKind, Gateway, Result,
    types::{CallContext, ChatRequest, RequestId},
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
        "model": "assistant",
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
        "model": "assistant",
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

/// The model asks for a tool; its result goes back in the next request.
///
/// # Errors
/// What the calls may end as.
pub async fn tools(gateway: &dyn Gateway) -> Result<String> {
    let mut request = json!({
        "model": "assistant",
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        }}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    });
    let answer = gateway
        .chat(CallContext::process(USER), chat(request.clone())?)
        .await?;
    let body: Value = serde_json::from_slice(&answer.body.to_bytes()).unwrap_or_default();
    let asked = body["choices"][0]["message"].clone();
    let call = &asked["tool_calls"][0];
    let name = call["function"]["name"].as_str().unwrap_or_default();
    let called = format!("{name}({})", call["function"]["arguments"]);

    let result =
        json!({"role": "tool", "tool_call_id": call["id"], "content": "18 degrees, sunny"});
    if let Some(messages) = request["messages"].as_array_mut() {
        messages.extend([asked, result]);
    }
    request["tool_choice"] = "auto".into();
    let answer = gateway
        .chat(CallContext::process(USER), chat(request)?)
        .await?;
    Ok(format!("{called}: {}", text(&answer.body.to_bytes())))
}

/// A conversation that the gateway keeps: only what is new is sent.
///
/// # Errors
/// What the calls may end as.
pub async fn session(gateway: &dyn Gateway) -> Result<String> {
    let mut session = "new".to_owned();
    for text in ["My name is Ada.", "What is my name?"] {
        let request = chat(json!({
            "model": "assistant",
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

/// What the session may cost bounds its answers, and then stops them.
///
/// # Errors
/// What the calls may end as, but for `budget_exceeded`.
pub async fn budget(gateway: &dyn Gateway) -> Result<String> {
    let session = format!("budget-{}", RequestId::new());
    for turn in 1..=20 {
        let request = chat(json!({
            "model": "assistant",
            "session_id": session,
            "messages": [{"role": "user", "content": format!("Turn {turn}: tell me more.")}],
        }))?;
        match gateway.chat(CallContext::process(USER), request).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::BudgetExceeded => {
                return Ok(format!(
                    "turn {turn}, {}: {}",
                    error.status(),
                    error.message()
                ));
            }
            Err(error) => return Err(error),
        }
    }
    Ok("the budget covered it".into())
}

/// A model that two providers serve, the first of which fails.
///
/// # Errors
/// What the call may end as.
pub async fn fallback(gateway: &dyn Gateway) -> Result<String> {
    let request = chat(json!({
        "model": "steady",
        "messages": [{"role": "user", "content": "hello"}],
    }))?;
    let answer = gateway.chat(CallContext::process(USER), request).await?;
    let info = answer.info;
    Ok(format!(
        "{} answered at attempt {}",
        info.provider, info.attempts
    ))
}

/// The configuration that these calls are made for, the one of the examples in other languages.
pub const CONFIG: &str = include_str!("../../offline.yaml");
