//! The call that writes a summary: a request of the gateway itself, through the ordinary routing, with a log row of its
//! own that belongs to the session's user. It has no session, so it never leads to another one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    compaction::Session,
    count, cover,
    dispatch::{self, Dispatched, Eligible, Need},
    execute,
    finish::Record,
    fit::{self, Prompt, Reserve},
};
use crate::{
    context::summarize::{self, Task},
    engine::Inner,
    error::{Error, ErrorKind, Result, Work},
    types::{ChatRequest, LogRow, RequestId, log::Purpose},
};

/// What the instructions of a summary take of a window, in tokens.
const INSTRUCTIONS: u64 = 400;
/// How many bytes of a transcript make a token at least; code and Chinese come near it.
const BYTES_PER_TOKEN: u64 = 2;

/// The summary that is wanted.
pub(super) struct Wanted<'a> {
    pub session: &'a Session,
    pub messages: &'a [Bytes],
    pub tokens_most: u64,
    /// Most tokens of the transcript where the window of the model is not known.
    pub transcript_most: u64,
}

/// Has a summary written; `None` if the model wrote none.
///
/// # Errors
/// `upstream_timeout` after the deadline, and those of any request.
pub(super) async fn summarize(
    inner: &Arc<Inner>,
    id: RequestId,
    wanted: &Wanted<'_>,
    deadline: Duration,
) -> Result<Option<Bytes>> {
    let settings = inner.settings().clone();
    let session = wanted.session;
    let configured = settings.config.session.summary_model.as_deref();
    let model = configured.unwrap_or(&session.model);
    let mut row = LogRow::new(id, Purpose::Summary, model, false);
    row.user_id = session.key.user_id.as_str().into();
    row.session_id = Some(session.key.id.as_str().into());
    row.api_key_id.clone_from(&session.caller.api_key_id);
    let mut record = Record::new(Arc::clone(inner), id, Instant::now(), row);
    let attempt = attempt(inner, &mut record, model, wanted);
    let outcome = match tokio::time::timeout(deadline, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(
            ErrorKind::UpstreamTimeout,
            format!("no summary within {deadline:?}"),
        )
        .with_work(Work::Unknown)),
    };
    record.end(outcome.as_ref().err());
    outcome
}

async fn attempt(
    inner: &Arc<Inner>,
    record: &mut Record,
    model: &str,
    wanted: &Wanted<'_>,
) -> Result<Option<Bytes>> {
    let route = inner.table().resolve(model)?;
    let reserve = Reserve::asked(wanted.tokens_most);
    let window = fit::bound(&route, reserve, 0).ok().flatten();
    let tokens = window.map_or(2 * wanted.transcript_most, |window| {
        window.saturating_sub(INSTRUCTIONS)
    });
    let task = Task {
        previous: wanted.session.prefix.summary.as_ref(),
        messages: wanted.messages,
        tokens_most: wanted.tokens_most,
        bytes_most: usize::try_from(tokens * BYTES_PER_TOKEN).unwrap_or(usize::MAX),
    };
    let mut request = ChatRequest::parse(summarize::request(model, &task))?;
    let prompt = Prompt {
        tokens: tokens.min(request.to_segments().len() as u64 / BYTES_PER_TOKEN),
        reserve,
    };
    let session = wanted.session;
    let spender = cover::spender(inner, &session.caller, Some(&session.key));
    let priced = cover::chat(inner, record, &route, &spender, &mut request).await?;
    let eligible = Eligible {
        route: &route,
        need: Need::Chat,
        session: None,
        prompt: Some(prompt),
        priced,
    };
    let call = |target, call| execute::chat(target, call, request.clone());
    let Dispatched { value, target, .. } =
        dispatch::dispatch(inner, record, &eligible, call).await?;
    let (usage, source) =
        count::of_answer(inner, &target, &request, value.usage, &value.body).await;
    record.used(usage, source)?;
    Ok(summarize::read(&value.body))
}
