//! [`Gateway`] by the engine.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    Engine,
    outlive::outlive,
    prices::{now_ms, with_price},
};
use crate::{
    admission::{ApiKey, IssuedKey, KeyChanges, NewKey, Scope},
    budget::{BudgetDefinition, BudgetState},
    error::{Error, ErrorKind, Result},
    gateway::{
        Gateway, Health, HealthStatus, Members, NewSession, PageQuery, PromptTokens, ProviderInfo,
        Ready, RequestPage, RequestQuery, RoutingRule, UsageQuery, UsageTotal,
    },
    pipeline,
    price::PriceEntry,
    resilience::health::Away,
    types::{
        CallContext, ChatRequest, ChatResponse, ChatStream, Credential, EmbeddingRequest,
        EmbeddingResponse, LogRow, Model, OnDisconnect, Pico, Principal, Session, SessionKey,
        call::Caller,
        chat::MAX_NAME,
        session::{MessagePage, SessionPage},
    },
};

/// The largest metadata of a session, in bytes of JSON.
const METADATA_MOST: usize = 16 * 1024;

/// How long a question for a request waits until those that have ended are in the log.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

#[async_trait]
impl Gateway for Engine {
    async fn authenticate(&self, context: &mut CallContext) -> Result<()> {
        let caller = pipeline::authenticate(&self.0, &context.credential)
            .await
            .inspect_err(|error| self.0.metrics.refused(error.code()))?;
        context.credential = Credential::Established(caller);
        Ok(())
    }

    fn name_session(&self, request: &mut ChatRequest) {
        pipeline::name_session(&self.0, request);
    }

    async fn chat(&self, context: CallContext, request: ChatRequest) -> Result<ChatResponse> {
        let inner = Arc::clone(&self.0);
        let drain = self.patience(&context);
        outlive(&self.0, drain, |gone| {
            pipeline::chat(inner, context, request, gone)
        })
        .await
    }

    async fn chat_stream(&self, context: CallContext, request: ChatRequest) -> Result<ChatStream> {
        let inner = Arc::clone(&self.0);
        if context.idempotency_key.is_none() {
            return pipeline::chat_stream(inner, context, request, Arc::default()).await;
        }
        // Whoever sends a key comes back for the answer.
        let drain = self.patience(&context);
        outlive(&self.0, drain, |gone| {
            pipeline::chat_stream(inner, context, request, gone)
        })
        .await
    }

    async fn embed(
        &self,
        context: CallContext,
        request: EmbeddingRequest,
    ) -> Result<EmbeddingResponse> {
        let inner = Arc::clone(&self.0);
        let drain = self.patience(&context);
        outlive(&self.0, drain, |gone| {
            pipeline::embed(inner, context, request, gone)
        })
        .await
    }

    async fn count_tokens(
        &self,
        context: CallContext,
        request: ChatRequest,
    ) -> Result<PromptTokens> {
        let (user_id, user) = (request.user_id(), request.user());
        let principal = self.identify_for(&context, user_id, user).await?;
        principal.may(Scope::Chat)?;
        principal.may_use(request.model())?;
        request.messages()?;
        let route = self.0.table().resolve(request.model())?;
        let first = route.tiers.first().and_then(|tier| tier.targets.first());
        let model = request.model().to_owned();
        let upstream_model =
            first.map_or_else(|| model.clone(), |target| target.upstream_model.to_string());
        let counter = self.0.corrections.counter(&upstream_model);
        let count = counter.count_request(request).await;
        Ok(PromptTokens {
            model,
            upstream_model,
            tokenizer: counter.tokenizer(),
            input_tokens: count.input_tokens,
            messages: count.messages,
            tools: count.tools,
            response_format: count.response_format,
            reply: count.reply,
        })
    }

    async fn models(&self, context: CallContext) -> Result<Vec<Model>> {
        let principal = self.identify(&context, None).await?;
        let mut models = self.all_models();
        if let Some(allowed) = &principal.models {
            models.retain(|id, _| allowed.contains(id));
        }
        Ok(models.into_values().collect())
    }

    async fn model(&self, context: CallContext, id: &str) -> Result<Model> {
        let principal = self.identify(&context, None).await?;
        let allowed = principal
            .models
            .as_ref()
            .is_none_or(|models| models.iter().any(|model| model == id));
        self.all_models()
            .remove(id)
            .filter(|_| allowed)
            .ok_or_else(|| {
                let shown: String = id.chars().take(100).collect();
                Error::new(
                    ErrorKind::ModelNotFound,
                    format!("there is no model `{shown}`; `GET /v1/models` lists those there are"),
                )
                .with_param("model")
            })
    }

    async fn create_session(&self, context: CallContext, new: NewSession) -> Result<Session> {
        let principal = self.identify(&context, new.user_id.as_deref()).await?;
        principal.may(Scope::Sessions)?;
        let id = match new.id {
            Some(id) if id != pipeline::NEW_SESSION => {
                if id.is_empty() || id.len() > MAX_NAME || id.chars().any(char::is_control) {
                    return Err(Error::invalid(
                        "id",
                        format!("a session id has 1 to {MAX_NAME} bytes and no control characters"),
                    ));
                }
                id
            }
            _ => pipeline::new_session_id(),
        };
        if let Some(metadata) = &new.metadata {
            let size = serde_json::to_string(metadata).map_or(usize::MAX, |text| text.len());
            if size > METADATA_MOST {
                return Err(Error::invalid(
                    "metadata",
                    format!("`metadata` may have at most {METADATA_MOST} bytes"),
                ));
            }
        }
        self.0
            .sessions
            .create(&key(&principal, id)?, new.metadata)
            .await
    }

    async fn session(&self, context: CallContext, id: &str) -> Result<Session> {
        let principal = self.identify(&context, None).await?;
        principal.may(Scope::Sessions)?;
        self.0
            .sessions
            .get(&key(&principal, id)?)
            .await?
            .ok_or_else(no_session)
    }

    async fn sessions(&self, context: CallContext, page: PageQuery) -> Result<SessionPage> {
        let principal = self.identify(&context, None).await?;
        principal.may(Scope::Sessions)?;
        let limit = limit(page.limit)?;
        self.0
            .sessions
            .list(principal.user()?, page.cursor.as_deref(), limit)
            .await
    }

    async fn session_messages(
        &self,
        context: CallContext,
        id: &str,
        after: u64,
        most: usize,
    ) -> Result<MessagePage> {
        let principal = self.identify(&context, None).await?;
        principal.may(Scope::Sessions)?;
        let most = limit(Some(most))?;
        self.0
            .sessions
            .messages(&key(&principal, id)?, after, most)
            .await?
            .ok_or_else(no_session)
    }

    async fn delete_session(&self, context: CallContext, id: &str) -> Result<()> {
        let principal = self.identify(&context, None).await?;
        principal.may(Scope::Sessions)?;
        let key = key(&principal, id)?;
        self.0.sessions.delete(&key).await?;
        // Afterwards: a turn that ends in between is then found to belong to no session.
        match self.0.memories() {
            Some(memories) => memories.forget(&key.user_id, &key.id),
            None => Ok(()),
        }
    }

    async fn request(&self, context: CallContext, id: &str) -> Result<LogRow> {
        let principal = self.identify(&context, None).await?;
        principal.may(Scope::Usage)?;
        let owner = owner(&principal, None)?;
        let read = || self.0.database.request(id, owner.as_deref());
        let row = match read().await {
            // It may have ended a moment ago: what waits is written first.
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && self.0.ledger.flush(WRITTEN_WITHIN).await =>
            {
                read().await?
            }
            row => row?,
        };
        Ok(shown_to(&principal, row))
    }

    async fn requests(&self, context: CallContext, query: RequestQuery) -> Result<RequestPage> {
        let principal = self.identify(&context, query.user_id.as_deref()).await?;
        principal.may(Scope::Usage)?;
        let owner = owner(&principal, query.user_id.as_deref())?;
        let mut page = self.0.database.requests(&query, owner.as_deref()).await?;
        page.data = page
            .data
            .into_iter()
            .map(|row| shown_to(&principal, row))
            .collect();
        Ok(page)
    }

    async fn usage(&self, context: CallContext, query: UsageQuery) -> Result<Vec<UsageTotal>> {
        let principal = self.identify(&context, query.user_id.as_deref()).await?;
        principal.may(Scope::Usage)?;
        let owner = owner(&principal, query.user_id.as_deref())?;
        query.check()?;
        let settings = self.0.settings();
        let database = &self.0.database;
        database
            .usage(&query, owner.as_deref(), &settings.exchange)
            .await
    }

    async fn routing_rules(&self, context: CallContext) -> Result<Vec<RoutingRule>> {
        self.admin(&context).await?;
        self.0.database.list_rules().await
    }

    async fn put_routing_rule(
        &self,
        context: CallContext,
        rule: RoutingRule,
    ) -> Result<RoutingRule> {
        self.admin(&context).await?;
        if !self
            .0
            .table()
            .providers()
            .contains_key(rule.provider_id.as_str())
        {
            let mut known: Vec<_> = self
                .0
                .table()
                .providers()
                .keys()
                .map(ToString::to_string)
                .collect();
            known.sort();
            return Err(Error::invalid(
                "provider_id",
                format!(
                    "no provider of that id is configured and enabled; there are: {}",
                    known.join(", ")
                ),
            ));
        }
        let rule = self.0.database.put_rule(&rule).await?;
        self.use_stored_rules_now().await;
        Ok(rule)
    }

    async fn delete_routing_rule(&self, context: CallContext, id: i64) -> Result<()> {
        self.admin(&context).await?;
        self.0.database.delete_rule(id).await?;
        self.use_stored_rules_now().await;
        Ok(())
    }

    async fn prices(&self, context: CallContext) -> Result<Vec<PriceEntry>> {
        self.admin(&context).await?;
        self.list_prices().await
    }

    async fn put_price(&self, context: CallContext, price: PriceEntry) -> Result<PriceEntry> {
        self.admin(&context).await?;
        self.store_price(&price).await
    }

    async fn delete_price(&self, context: CallContext, id: i64) -> Result<()> {
        self.admin(&context).await?;
        self.remove_price(id).await
    }

    async fn budgets(&self, context: CallContext) -> Result<Vec<BudgetState>> {
        self.admin(&context).await?;
        self.0.budgets.list().await
    }

    async fn put_budget(
        &self,
        context: CallContext,
        budget: BudgetDefinition,
    ) -> Result<BudgetState> {
        self.admin(&context).await?;
        self.store_budget(budget).await
    }

    async fn delete_budget(&self, context: CallContext, id: i64) -> Result<()> {
        self.admin(&context).await?;
        self.remove_budget(id).await
    }

    async fn keys(&self, context: CallContext) -> Result<Vec<ApiKey>> {
        self.list_keys(&context).await
    }

    async fn key(&self, context: CallContext, id: &str) -> Result<ApiKey> {
        self.get_key(&context, id).await
    }

    async fn create_key(&self, context: CallContext, new: NewKey) -> Result<IssuedKey> {
        self.make_key(&context, new).await
    }

    async fn change_key(
        &self,
        context: CallContext,
        id: &str,
        changes: KeyChanges,
    ) -> Result<ApiKey> {
        self.change_key_of(&context, id, &changes).await
    }

    async fn rotate_key(
        &self,
        context: CallContext,
        id: &str,
        grace: Duration,
    ) -> Result<IssuedKey> {
        self.rotate_key_of(&context, id, grace).await
    }

    async fn revoke_key(&self, context: CallContext, id: &str) -> Result<()> {
        self.revoke_key_of(&context, id).await
    }

    async fn admin_providers(&self, context: CallContext) -> Result<Vec<ProviderInfo>> {
        self.admin(&context).await?;
        Ok(self.0.provider_infos())
    }

    async fn put_provider(
        &self,
        context: CallContext,
        id: &str,
        members: Members,
        create: bool,
    ) -> Result<ProviderInfo> {
        self.admin(&context).await?;
        self.0.write_provider(id, members, create).await
    }

    async fn delete_provider(&self, context: CallContext, id: &str) -> Result<()> {
        self.admin(&context).await?;
        self.0.remove_provider(id).await
    }

    async fn health(&self) -> Health {
        let status = HealthStatus {
            database: self.0.database_up.load(Relaxed),
            redis: self.0.redis_up.load(Relaxed),
            providers: self
                .0
                .table()
                .accounts()
                .any(|account| account.health.away() != Some(Away::Unhealthy)),
        };
        let healthy = status.database && status.redis && status.providers;
        Health {
            status,
            healthy,
            timestamp: jiff::Timestamp::now().as_second(),
        }
    }

    async fn ready(&self) -> Ready {
        let mut degraded = Vec::new();
        let table = self.0.table();
        let mut ready = true;
        if self.0.is_draining() {
            ready = false;
            degraded.push("draining".to_owned());
        }
        if table.accounts().next().is_none() {
            ready = false;
            degraded.push("no provider is configured and enabled".to_owned());
        }
        if !self.0.keys_usable() {
            ready = false;
            degraded.push("API keys are not loaded yet".to_owned());
        }
        if !self.0.rules_loaded.load(Relaxed) {
            degraded.push("the routing rules of the database are not loaded yet".to_owned());
        }
        if !self.0.prices_loaded.load(Relaxed) {
            degraded.push("the prices of the database are not loaded yet".to_owned());
        }
        if !self.0.providers_loaded.load(Relaxed) {
            degraded.push("the providers of the database are not loaded yet".to_owned());
        }
        if !self.0.database_up.load(Relaxed) {
            degraded.push("database".to_owned());
        }
        if !self.0.redis_up.load(Relaxed) {
            degraded.push("redis".to_owned());
        }
        if self.0.callers.is_alone() {
            degraded.push("callers' limits: this instance gives out its share".to_owned());
        }
        let mut away: Vec<String> = table
            .providers()
            .iter()
            .filter(|(_, accounts)| {
                accounts
                    .iter()
                    .all(|account| account.health.away() == Some(Away::Unhealthy))
            })
            .map(|(id, _)| format!("provider {id}"))
            .collect();
        away.sort();
        degraded.append(&mut away);
        Ready { ready, degraded }
    }

    fn count_refused(&self, error: &Error) {
        self.0.metrics.refused(error.code());
    }
}

impl Engine {
    /// How long a call goes on whose caller has left.
    fn patience(&self, context: &CallContext) -> Duration {
        match context.idempotency_key {
            Some(_) => self.0.settings().config.idempotency.drain,
            None => {
                let key = match &context.credential {
                    Credential::Established(Caller::Key(key)) => Some(&**key),
                    _ => None,
                };
                let rule = self.0.settings().on_disconnect(key);
                let rule = rule.unwrap_or(OnDisconnect::WHOLE);
                rule.time().unwrap_or(Duration::MAX)
            }
        }
    }

    async fn identify(&self, context: &CallContext, user_id: Option<&str>) -> Result<Principal> {
        self.identify_for(context, user_id, None).await
    }

    async fn identify_for(
        &self,
        context: &CallContext,
        user_id: Option<&str>,
        user: Option<&str>,
    ) -> Result<Principal> {
        pipeline::identify(&self.0, context, user_id, user)
            .await
            .inspect_err(|error| self.0.metrics.refused(error.code()))
    }

    /// Who calls, if it is an admin.
    pub(super) async fn admin(&self, context: &CallContext) -> Result<Principal> {
        let principal = self.identify(context, None).await?;
        if principal.is_admin() {
            return Ok(principal);
        }
        Err(Error::new(
            ErrorKind::AdminRequired,
            "this needs the admin key (`auth.admin_key`) or a key made with `--admin`",
        ))
    }

    /// Puts a change of the rules into force here at once. It is stored already: if it cannot be read back now, the
    /// next look at the table will see it.
    async fn use_stored_rules_now(&self) {
        if let Ok(rules) = self.0.database.list_rules().await {
            self.0.use_stored_rules(rules);
        }
    }

    /// Every model by the name to ask for: those with a route of their own, then what providers list, bare where the
    /// bare name leads to that provider and as `provider/model` otherwise.
    pub(super) fn all_models(&self) -> BTreeMap<String, Model> {
        let table = self.0.table();
        let (prices, now) = (self.0.prices.load(), now_ms());
        let mut models = BTreeMap::new();
        for account in table.accounts() {
            for listed in account.models.load().iter() {
                let bare = table.resolve(&listed.id).is_ok_and(|route| {
                    route
                        .tiers
                        .first()
                        .and_then(|tier| tier.targets.first())
                        .is_some_and(|target| target.account.id == account.id)
                });
                let id = if bare {
                    listed.id.clone()
                } else {
                    format!("{}/{}", account.id, listed.id)
                };
                let model = Model {
                    id: id.clone(),
                    provider: account.id.to_string(),
                    max_tokens: account.window(&listed.id),
                    ..listed.clone()
                };
                let price = prices.find(&account.id, account.catalog, &listed.id, now);
                let model = with_price(model, price.as_deref());
                models.entry(id).or_insert(model);
            }
        }
        for (name, target) in table.named() {
            models.entry(name.to_owned()).or_insert_with(|| {
                let model = Model {
                    max_tokens: target.window(),
                    ..Model::new(name, &*target.account.id)
                };
                with_price(model, target.price(&prices, now).as_deref())
            });
        }
        models
    }
}

fn key(principal: &Principal, id: impl Into<String>) -> Result<SessionKey> {
    Ok(SessionKey {
        user_id: principal.user()?.to_string(),
        id: id.into(),
    })
}

fn no_session() -> Error {
    Error::new(
        ErrorKind::SessionNotFound,
        "there is no such session; a chat request with this `session_id` creates it",
    )
}

/// Whose rows a caller sees: its own; an admin everybody's, or those of the user it names.
fn owner(principal: &Principal, named: Option<&str>) -> Result<Option<String>> {
    if principal.is_admin() {
        return Ok(named.map(str::to_owned));
    }
    principal.user().map(|user| Some(user.to_string()))
}

/// A row as a caller may see it: only admins see where the operator's providers lie.
fn shown_to(principal: &Principal, mut row: LogRow) -> LogRow {
    if let Some(decision) = row.decision.as_mut().filter(|_| !principal.is_admin()) {
        decision.endpoint.clear();
    }
    row.user_charge = Some(Pico(row.user_charge_pico.into()));
    row.provider_cost = Some(Pico(row.provider_cost_pico.into()));
    row
}

fn limit(limit: Option<usize>) -> Result<usize> {
    match limit.unwrap_or(50) {
        limit @ 1..=1000 => Ok(limit),
        _ => Err(Error::invalid("limit", "`limit` must be from 1 to 1000")),
    }
}
