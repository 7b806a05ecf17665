//! [`Gateway`] over the HTTP API: one request a method.

use std::{fmt::Display, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use http::Method;

use super::{
    RemoteGateway,
    call::Call,
    exchange::{Answer, within},
    head,
    resource::{List, WireIssuedKey, WireMessage, WireSession},
    stream::Chunks,
};
use crate::{
    admission::{ApiKey, IssuedKey, KeyChanges, NewKey},
    budget::{BudgetDefinition, BudgetState},
    error::{Error, ErrorKind, Result, Work},
    gateway::{
        Gateway, Health, HealthStatus, Members, NewSession, PageQuery, PromptTokens, ProviderInfo,
        Ready, RequestPage, RequestQuery, RoutingRule, UsageQuery, UsageTotal,
    },
    price::PriceEntry,
    types::{
        CallContext, ChatRequest, ChatResponse, ChatStream, EmbeddingRequest, EmbeddingResponse,
        LogRow, Model, RawObject, Session, Usage,
        session::{MessagePage, SessionPage},
    },
};

#[async_trait]
impl Gateway for RemoteGateway {
    async fn chat(&self, context: CallContext, request: ChatRequest) -> Result<ChatResponse> {
        let request = streamed(request, false);
        let call = Call::post("/chat/completions").body(request.as_received());
        let answer = self.exchange(&context, call).await?;
        let body = self.object(&answer)?;
        Ok(ChatResponse {
            info: head::info(&answer.headers, &context, request.session_id()),
            usage: usage(&body),
            body,
        })
    }

    async fn chat_stream(&self, context: CallContext, request: ChatRequest) -> Result<ChatStream> {
        let request = streamed(request, true);
        let call = Call::post("/chat/completions").body(request.as_received());
        let begun = self.begin(&context, call, "text/event-stream");
        let (head, body) = within(self.stream_idle_timeout, begun).await?;
        let id = head::request_id(&head.headers);
        let (most, buffer) = (self.max_event, &self.stream_buffer);
        let mut chunks = Chunks::new(body, most, buffer, id, self.stream_idle_timeout);
        // The service may have begun its answer before the provider did; until the first chunk is there, a failure is
        // that of the call.
        let first = match chunks.next().await {
            Some(first) => Some(Ok(first?)),
            None => None,
        };
        Ok(ChatStream {
            info: head::info(&head.headers, &context, request.session_id()),
            chunks: Box::pin(stream::iter(first).chain(chunks)),
        })
    }

    async fn embed(
        &self,
        context: CallContext,
        request: EmbeddingRequest,
    ) -> Result<EmbeddingResponse> {
        let call = Call::post("/embeddings").body(request.as_received());
        let answer = self.exchange(&context, call).await?;
        let body = self.object(&answer)?;
        Ok(EmbeddingResponse {
            info: head::info(&answer.headers, &context, None),
            usage: usage(&body),
            body,
        })
    }

    async fn count_tokens(
        &self,
        context: CallContext,
        request: ChatRequest,
    ) -> Result<PromptTokens> {
        let call = Call::post("/tokens").body(request.as_received());
        self.value(&context, call).await
    }

    async fn models(&self, context: CallContext) -> Result<Vec<Model>> {
        self.list(&context, "/models").await
    }

    async fn model(&self, context: CallContext, id: &str) -> Result<Model> {
        self.value(&context, Call::get("/models").at(id)).await
    }

    async fn create_session(&self, context: CallContext, new: NewSession) -> Result<Session> {
        let call = Call::post("/sessions").json(&new)?;
        let session: WireSession = self.value(&context, call).await?;
        Ok(session.into())
    }

    async fn session(&self, context: CallContext, id: &str) -> Result<Session> {
        let session: WireSession = self.value(&context, Call::get("/sessions").at(id)).await?;
        Ok(session.into())
    }

    async fn sessions(&self, context: CallContext, page: PageQuery) -> Result<SessionPage> {
        let call = Call::get("/sessions")
            .query("cursor", page.cursor.as_deref())
            .query("limit", text(page.limit).as_deref());
        let list: List<WireSession> = self.value(&context, call).await?;
        Ok(SessionPage {
            sessions: list.data.into_iter().map(Session::from).collect(),
            next_cursor: list.next_cursor,
        })
    }

    async fn session_messages(
        &self,
        context: CallContext,
        id: &str,
        after: u64,
        limit: usize,
    ) -> Result<MessagePage> {
        let call = Call::get("/sessions").at(id);
        let call = Call::get(call.path + "/messages")
            .query("after", Some(&after.to_string()))
            .query("limit", Some(&limit.to_string()));
        let list: List<WireMessage> = self.value(&context, call).await?;
        // Afterwards, so that it counts every message of the page.
        let session = self.session(context, id).await?;
        Ok(MessagePage {
            session,
            messages: list.data.into_iter().map(Into::into).collect(),
        })
    }

    async fn delete_session(&self, context: CallContext, id: &str) -> Result<()> {
        self.done(&context, Call::delete("/sessions").at(id)).await
    }

    async fn request(&self, context: CallContext, id: &str) -> Result<LogRow> {
        self.value(&context, Call::get("/requests").at(id)).await
    }

    async fn requests(&self, context: CallContext, query: RequestQuery) -> Result<RequestPage> {
        let call = Call::get("/requests")
            .query("user_id", query.user_id.as_deref())
            .query("session_id", query.session_id.as_deref())
            .query("status", query.status.as_deref())
            .query("model", query.model.as_deref())
            .query("from", query.from.as_deref())
            .query("to", query.to.as_deref())
            .query("cursor", query.cursor.as_deref())
            .query("limit", text(query.limit).as_deref());
        self.value(&context, call).await
    }

    async fn usage(&self, context: CallContext, query: UsageQuery) -> Result<Vec<UsageTotal>> {
        let by = query.by.join(",");
        let call = Call::get("/usage")
            .query("from", query.from.as_deref())
            .query("to", query.to.as_deref())
            .query("by", Some(by.as_str()).filter(|by| !by.is_empty()))
            .query("user_id", query.user_id.as_deref());
        let list: List<UsageTotal> = self.value(&context, call).await?;
        Ok(list.data)
    }

    async fn routing_rules(&self, context: CallContext) -> Result<Vec<RoutingRule>> {
        self.list(&context, "/admin/routing-rules").await
    }

    async fn put_routing_rule(
        &self,
        context: CallContext,
        rule: RoutingRule,
    ) -> Result<RoutingRule> {
        let call = put("/admin/routing-rules", rule.id).json(&rule)?;
        self.value(&context, call).await
    }

    async fn delete_routing_rule(&self, context: CallContext, id: i64) -> Result<()> {
        let call = Call::delete("/admin/routing-rules").at(&id.to_string());
        self.done(&context, call).await
    }

    async fn prices(&self, context: CallContext) -> Result<Vec<PriceEntry>> {
        self.list(&context, "/admin/prices").await
    }

    async fn put_price(&self, context: CallContext, price: PriceEntry) -> Result<PriceEntry> {
        let call = put("/admin/prices", price.id).json(&price)?;
        self.value(&context, call).await
    }

    async fn delete_price(&self, context: CallContext, id: i64) -> Result<()> {
        let call = Call::delete("/admin/prices").at(&id.to_string());
        self.done(&context, call).await
    }

    async fn budgets(&self, context: CallContext) -> Result<Vec<BudgetState>> {
        self.list(&context, "/admin/budgets").await
    }

    async fn put_budget(
        &self,
        context: CallContext,
        budget: BudgetDefinition,
    ) -> Result<BudgetState> {
        let call = put("/admin/budgets", budget.id).json(&budget)?;
        self.value(&context, call).await
    }

    async fn delete_budget(&self, context: CallContext, id: i64) -> Result<()> {
        let call = Call::delete("/admin/budgets").at(&id.to_string());
        self.done(&context, call).await
    }

    async fn keys(&self, context: CallContext) -> Result<Vec<ApiKey>> {
        self.list(&context, "/admin/keys").await
    }

    async fn key(&self, context: CallContext, id: &str) -> Result<ApiKey> {
        self.value(&context, Call::get("/admin/keys").at(id)).await
    }

    async fn create_key(&self, context: CallContext, new: NewKey) -> Result<IssuedKey> {
        let call = Call::post("/admin/keys").json(&new)?;
        let issued: WireIssuedKey = self.value(&context, call).await?;
        Ok(issued.into())
    }

    async fn change_key(
        &self,
        context: CallContext,
        id: &str,
        changes: KeyChanges,
    ) -> Result<ApiKey> {
        let call = Call::new(Method::PATCH, "/admin/keys")
            .at(id)
            .json(&changes)?;
        self.value(&context, call).await
    }

    async fn rotate_key(
        &self,
        context: CallContext,
        id: &str,
        grace: Duration,
    ) -> Result<IssuedKey> {
        let path = Call::get("/admin/keys").at(id).path + "/rotate";
        let grace = serde_json::json!({"grace_seconds": grace.as_secs()});
        let issued: WireIssuedKey = self.value(&context, Call::post(path).json(&grace)?).await?;
        Ok(issued.into())
    }

    async fn revoke_key(&self, context: CallContext, id: &str) -> Result<()> {
        self.done(&context, Call::delete("/admin/keys").at(id))
            .await
    }

    async fn admin_providers(&self, context: CallContext) -> Result<Vec<ProviderInfo>> {
        self.list(&context, "/admin/providers").await
    }

    async fn put_provider(
        &self,
        context: CallContext,
        id: &str,
        mut members: Members,
        create: bool,
    ) -> Result<ProviderInfo> {
        let call = if create {
            members.entry("id").or_insert_with(|| id.into());
            Call::post("/admin/providers")
        } else {
            Call::new(Method::PUT, "/admin/providers").at(id)
        };
        self.value(&context, call.json(&members)?).await
    }

    async fn delete_provider(&self, context: CallContext, id: &str) -> Result<()> {
        let call = Call::delete("/admin/providers").at(id);
        self.done(&context, call).await
    }

    /// What the service says of itself; all is away where it cannot be asked.
    async fn health(&self) -> Health {
        self.probe("/health").await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the service does not tell its health");
            Health {
                status: HealthStatus {
                    database: false,
                    redis: false,
                    providers: false,
                },
                healthy: false,
                timestamp: jiff::Timestamp::now().as_second(),
            }
        })
    }

    async fn ready(&self) -> Ready {
        self.probe("/ready")
            .await
            .unwrap_or_else(|error: Error| Ready {
                ready: false,
                degraded: vec![error.code().to_owned()],
            })
    }
}

impl RemoteGateway {
    async fn list<T: serde::de::DeserializeOwned>(
        &self,
        context: &CallContext,
        path: &str,
    ) -> Result<Vec<T>> {
        let list: List<T> = self.value(context, Call::get(path)).await?;
        Ok(list.data)
    }

    /// The object that an answer is.
    fn object(&self, answer: &Answer) -> Result<RawObject> {
        RawObject::parse(answer.body.clone()).map_err(|error| {
            Error::new(
                ErrorKind::UpstreamInvalidResponse,
                "the Lyss service's answer is not a JSON object",
            )
            .with_work(Work::Unknown)
            .with_request_id(head::request_id(&answer.headers))
            .with_source(error)
        })
    }
}

/// Adds an entry, or changes the one of an id.
fn put(path: &str, id: Option<i64>) -> Call {
    match id {
        None => Call::post(path),
        Some(id) => Call::new(Method::PUT, path).at(&id.to_string()),
    }
}

/// The request with or without `stream`, as the method says.
fn streamed(mut request: ChatRequest, stream: bool) -> ChatRequest {
    if request.stream() != stream {
        let body = request.body_mut();
        body.set("stream", if stream { "true" } else { "false" });
        if !stream {
            body.remove("stream_options");
        }
    }
    request
}

fn text(value: Option<impl Display>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn usage(body: &RawObject) -> Usage {
    body.get("usage")
        .and_then(Usage::from_openai)
        .unwrap_or_default()
}
