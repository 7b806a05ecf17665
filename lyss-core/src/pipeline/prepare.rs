//! From an admitted chat request to one that can be dispatched: the stages that a whole answer and a stream share.

use std::{future::Future, sync::Arc};

use super::{
    assemble::{self, Turning},
    compress::{self, Fitted},
    cover::{self, Priced},
    dispatch::{self, Dispatched, Eligible, Need},
    finish::Record,
    fit::Prompt,
    once::Once,
    recall::{self, Remembering},
};
use crate::{
    engine::Inner,
    error::Result,
    provider::ProviderCall,
    routing::{Route, Target},
    types::{ChatRequest, ContextUse, Principal, ReplyInfo},
};

/// A request that can be dispatched: nothing after this changes its messages.
pub(crate) struct Prepared {
    pub turn: Turning,
    pub remembering: Remembering,
    pub request: ChatRequest,
    route: Arc<Route>,
    prompt: Option<Prompt>,
    priced: Priced,
    /// What was sent of the stored conversation, where it was not all.
    context: Option<ContextUse>,
}

/// Takes an admitted request through `assemble`, `recall`, `compress` and `cover`.
pub(crate) async fn prepare(
    inner: &Arc<Inner>,
    principal: &Principal,
    request: ChatRequest,
    record: &mut Record,
    once: &mut Once,
) -> Result<Prepared> {
    let mut turn = assemble::assemble(inner, principal, record.request_id(), &request).await?;
    record.session(turn.session_id());
    let mut remembering = recall::recall(inner, principal, &turn, &request, record).await?;
    let route = inner.table().resolve(request.model())?;
    let memories = remembering.take_block();
    let fitted = compress::compress(inner, record, &mut turn, request, &route, memories).await?;
    let Fitted {
        mut request,
        prompt,
        context,
    } = fitted;
    let spender = cover::spender(inner, principal, turn.key());
    let priced = cover::chat(inner, record, &route, &spender, &mut request).await?;
    once.dispatching().await?;
    Ok(Prepared {
        turn,
        remembering,
        request,
        route,
        prompt,
        priced,
        context,
    })
}

impl Prepared {
    /// Has a target answer; see [`dispatch::dispatch`].
    pub async fn dispatch<T, F, Fut>(
        &self,
        inner: &Inner,
        record: &mut Record,
        need: Need,
        call: F,
    ) -> Result<Dispatched<T>>
    where
        F: Fn(Arc<Target>, ProviderCall) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let eligible = Eligible {
            route: &self.route,
            need,
            session: self.turn.key(),
            prompt: self.prompt,
            priced: self.priced,
        };
        dispatch::dispatch(inner, record, &eligible, call).await
    }

    /// What the caller is told beside the answer.
    pub fn info(
        &self,
        record: &Record,
        target: &Target,
        upstream_request_id: Option<String>,
    ) -> ReplyInfo {
        ReplyInfo {
            session_id: self.turn.session_id().map(Arc::from),
            context: self.context,
            ..record.info(target, upstream_request_id)
        }
    }
}
