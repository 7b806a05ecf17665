//! One request. The stages, in order:
//!
//! | stage | does |
//! |---|---|
//! | `admit` | who calls, may they, is there room (`limit`: of the caller's own limits); from here on the request makes exactly one log row |
//! | `once` | has it been done already (`Idempotency-Key`)? Also keeps the answer before it is acknowledged |
//! | `assemble` | loads the session and builds the message list |
//! | `recall` | finds what is remembered of the user; after the answer it hands the turn on |
//! | `compress` | keeps the list within the window |
//! | `cover` | reserves what it may cost, and writes the intent: from here on a crash leaves a row |
//! | `dispatch` | picks targets and retries until one answers |
//! | `execute` | one attempt on one target, under its deadlines |
//! | `deliver` | a stream on its way: usage read, the end held back until the turn is stored |
//! | `finish` | end, error or drop, exactly once: what it is charged (`charge`), log row, metrics |
//!
//! `prepare` is the part of it that a whole answer and a stream share.
//!
//! Nothing after `compress` changes the messages; nothing is tried again once a chunk has left.

mod admit;
mod assemble;
mod bounds;
mod charge;
mod compaction;
mod compress;
mod count;
mod cover;
mod deliver;
mod dispatch;
mod execute;
mod finish;
mod fit;
mod history;
mod limit;
mod once;
mod prepare;
mod recall;
mod summary;
mod turn;

use std::sync::{Arc, atomic::AtomicBool};

pub(crate) use admit::{authenticate, identify};
pub(crate) use assemble::{NEW_SESSION, name_session, new_session_id};
pub(crate) use compaction::Compactions;

use crate::{
    budget::Spender,
    engine::Inner,
    error::Result,
    types::{
        CallContext, ChatRequest, ChatResponse, ChatStream, EmbeddingRequest, EmbeddingResponse,
        LogRow, OnDisconnect, RawObject, log::Purpose,
    },
};
use dispatch::{Dispatched, Eligible, Need};
use finish::Record;
use once::{Begun, Once};

/// The endpoints, as a request's fingerprint names them.
const CHAT: &str = "chat/completions";
const EMBED: &str = "embeddings";

/// A complete chat answer. `gone` is set when the caller has gone away meanwhile.
pub(crate) async fn chat(
    inner: Arc<Inner>,
    context: CallContext,
    mut request: ChatRequest,
    gone: Arc<AtomicBool>,
) -> Result<ChatResponse> {
    name_session(&inner, &mut request);
    let asked = admit::Asked::chat(&request);
    let (principal, mut record) = admit::admit(&inner, &context, asked).await?;
    let body = request.body();
    let begun = once::begin(&inner, &context, &principal, CHAT, body, &mut record, &gone);
    let mut once = match begun.await? {
        Begun::Run(once) => once,
        Begun::Replay(reply) => return reply.into_chat(),
    };
    if !once.is_held() {
        record.gone_when(gone);
    }
    let outcome = async {
        let mut prepared =
            prepare::prepare(&inner, &principal, request, &mut record, &mut once).await?;
        let request = &prepared.request;
        let call = |target, call| execute::chat(target, call, request.clone());
        let dispatched = prepared.dispatch(&inner, &mut record, Need::Chat, call);
        let Dispatched { value, target, .. } = dispatched.await?;
        let (usage, source) =
            count::of_answer(&inner, &target, request, value.usage, &value.body).await;
        record.used(usage, source)?;
        if !record.is_gone() {
            let turn = &mut prepared.turn;
            turn.append_answer(&inner, context.request_id, &value.body)
                .await?;
            let remembering = &mut prepared.remembering;
            remembering.remember_answer(context.request_id, &value.body);
        }
        Ok(ChatResponse {
            info: prepared.info(&record, &target, value.upstream_request_id),
            body: value.body,
            usage,
        })
    }
    .await;
    let answer = outcome.as_ref();
    once.settle(answer.map(|answer| (&answer.info, answer.usage, &answer.body)))
        .await;
    record.end(outcome.as_ref().err());
    inner.ledger.kept().await.and(outcome)
}

/// A streamed chat answer, from its first chunk on. `gone`: as for [`chat`].
pub(crate) async fn chat_stream(
    inner: Arc<Inner>,
    context: CallContext,
    mut request: ChatRequest,
    gone: Arc<AtomicBool>,
) -> Result<ChatStream> {
    name_session(&inner, &mut request);
    let asked = admit::Asked::chat(&request);
    let (principal, mut record) = admit::admit(&inner, &context, asked).await?;
    let body = request.body();
    let begun = once::begin(&inner, &context, &principal, CHAT, body, &mut record, &gone);
    let mut once = match begun.await? {
        Begun::Run(once) => once,
        Begun::Replay(reply) => return reply.into_stream(),
    };
    let outcome = async {
        let prepared =
            prepare::prepare(&inner, &principal, request, &mut record, &mut once).await?;
        let request = &prepared.request;
        let call = |target, call| execute::chat_stream(target, call, request.clone());
        let dispatched = prepared.dispatch(&inner, &mut record, Need::Stream, call);
        let dispatched = dispatched.await?;
        record.first_chunk();
        Ok((prepared, dispatched))
    }
    .await;
    match outcome {
        Ok((prepared, dispatched)) => {
            let Dispatched {
                value,
                target,
                in_flight,
            } = dispatched;
            let info = prepared.info(&record, &target, value.upstream_request_id.clone());
            once.opened(&info);
            let rule = inner.settings().on_disconnect(principal.key.as_deref());
            let chunks = deliver::deliver(deliver::Running {
                inner,
                on_disconnect: rule.unwrap_or(OnDisconnect::STREAM),
                record,
                once,
                prepared,
                opened: value,
                target,
                in_flight,
            });
            Ok(ChatStream { info, chunks })
        }
        Err(error) => {
            once.settle(Err(&error)).await;
            record.end(Some(&error));
            Err(error)
        }
    }
}

/// Embeddings.
pub(crate) async fn embed(
    inner: Arc<Inner>,
    context: CallContext,
    request: EmbeddingRequest,
    gone: Arc<AtomicBool>,
) -> Result<EmbeddingResponse> {
    let asked = admit::Asked {
        purpose: Purpose::Embedding,
        model: request.model(),
        stream: false,
        body: request.body(),
        user_id: request.user_id(),
        user: request.user(),
    };
    let (principal, mut record) = admit::admit(&inner, &context, asked).await?;
    let body = request.body();
    let begun = once::begin(
        &inner,
        &context,
        &principal,
        EMBED,
        body,
        &mut record,
        &gone,
    );
    let mut once = match begun.await? {
        Begun::Run(once) => once,
        Begun::Replay(reply) => return reply.into_embedding(),
    };
    if !once.is_held() {
        record.gone_when(gone);
    }
    let spender = cover::spender(&inner, &principal, None);
    let outcome = embedded(&inner, &request, &spender, &mut record, Some(&mut once)).await;
    let answer = outcome.as_ref();
    once.settle(answer.map(|answer| (&answer.info, answer.usage, &answer.body)))
        .await;
    record.end(outcome.as_ref().err());
    inner.ledger.kept().await.and(outcome)
}

/// Embeddings that the gateway itself needs for its memory. They make a row of their own, for the user.
pub(crate) async fn embed_for_memory(
    inner: Arc<Inner>,
    user_id: &str,
    session_id: Option<&str>,
    request: EmbeddingRequest,
) -> Result<RawObject> {
    let context = CallContext::process(user_id);
    let id = context.request_id;
    let mut row = LogRow::new(id, Purpose::Embedding, request.model(), false);
    row.user_id = user_id.into();
    let mut record = Record::new(Arc::clone(&inner), id, context.started, row);
    record.session(session_id);
    let spender = Spender {
        user_id: user_id.into(),
        session_id: session_id.map(Arc::from),
        ..Spender::default()
    };
    let outcome = embedded(&inner, &request, &spender, &mut record, None).await;
    record.end(outcome.as_ref().err());
    outcome.map(|answer| answer.body)
}

async fn embedded(
    inner: &Inner,
    request: &EmbeddingRequest,
    spender: &Spender,
    record: &mut Record,
    once: Option<&mut Once>,
) -> Result<EmbeddingResponse> {
    request.input()?;
    let route = inner.table().resolve(request.model())?;
    let priced = cover::embeddings(inner, record, &route, spender, request).await?;
    if let Some(once) = once {
        once.dispatching().await?;
    }
    let call = |target, call| execute::embed(target, call, request.clone());
    let eligible = Eligible {
        route: &route,
        need: Need::Embeddings,
        session: None,
        prompt: None,
        priced,
    };
    let Dispatched { value, target, .. } =
        dispatch::dispatch(inner, record, &eligible, call).await?;
    let (usage, source) = count::of_embeddings(inner, &target, request, value.usage).await;
    record.used(usage, source)?;
    Ok(EmbeddingResponse {
        info: record.info(&target, value.upstream_request_id),
        body: value.body,
        usage,
    })
}
