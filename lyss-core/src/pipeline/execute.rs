//! One attempt on one target, under its deadlines.

use std::{future::Future, sync::Arc};

use futures::StreamExt;

use crate::{
    error::{Error, ErrorKind, Result, Retry, Work},
    provider::{Completion, ProviderCall},
    resilience::timeout::{self, Paced},
    routing::Target,
    types::{ChatChunk, ChatRequest, EmbeddingRequest},
};

/// A stream whose first chunk is here.
pub(crate) struct Opened {
    pub first: ChatChunk,
    pub rest: Paced,
    pub upstream_request_id: Option<String>,
}

pub(crate) fn chat(
    target: Arc<Target>,
    call: ProviderCall,
    mut request: ChatRequest,
) -> impl Future<Output = Result<Completion>> + Send {
    request.set_model(&target.upstream_model);
    async move {
        timeout::unary(
            target.account.timeouts.unary,
            target.account.provider.chat(&call, request),
        )
        .await
    }
}

pub(crate) fn embed(
    target: Arc<Target>,
    call: ProviderCall,
    mut request: EmbeddingRequest,
) -> impl Future<Output = Result<Completion>> + Send {
    request.set_model(&target.upstream_model);
    async move {
        timeout::unary(
            target.account.timeouts.unary,
            target.account.provider.embed(&call, request),
        )
        .await
    }
}

pub(crate) fn chat_stream(
    target: Arc<Target>,
    call: ProviderCall,
    mut request: ChatRequest,
) -> impl Future<Output = Result<Opened>> + Send {
    request.set_model(&target.upstream_model);
    async move {
        let timeouts = target.account.timeouts;
        timeout::first_chunk(timeouts.first_chunk, async {
            let mut stream = target.account.provider.chat_stream(&call, request).await?;
            match stream.chunks.next().await {
                Some(first) => Ok(Opened {
                    first: first?,
                    rest: Paced::new(stream.chunks, &timeouts),
                    upstream_request_id: stream.upstream_request_id,
                }),
                None => Err(Error::new(
                    ErrorKind::UpstreamIncomplete,
                    "the provider closed the stream without a chunk",
                )
                .with_work(Work::Unknown)
                .with_retry(Retry::Elsewhere)),
            }
        })
        .await
    }
}
