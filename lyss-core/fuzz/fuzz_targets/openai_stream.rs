//! Whatever an OpenAI-compatible service streams, what is passed on is one line of JSON an event, and the stream ends.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, executor::block_on, stream};
use libfuzzer_sys::fuzz_target;
use lyss_core::{
    Error,
    provider::{
        ProviderCall, ProviderSpec,
        openai::OpenAi,
        transport::{BodyStream, HttpTransport},
    },
    types::{ChatChunk, ChatRequest, RawObject, RequestId, Segments},
};

/// Answers every request with the input, in pieces.
struct Canned(Vec<u8>, usize);

#[async_trait::async_trait]
impl HttpTransport for Canned {
    async fn send(&self, _: http::Request<Segments>) -> Result<http::Response<BodyStream>, Error> {
        let pieces: Vec<Result<Bytes, Error>> = self
            .0
            .chunks(self.1)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        Ok(http::Response::new(Box::pin(stream::iter(pieces))))
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, body)) = data.split_first() else {
        return;
    };
    let include_usage = first & 1 == 1;
    let transport = Canned(body.to_vec(), usize::from(first >> 1).max(1));
    let provider = OpenAi::from_spec(ProviderSpec::new("fuzz", Arc::new(transport))).unwrap();
    let options = if include_usage {
        r#","stream_options":{"include_usage":true}"#
    } else {
        ""
    };
    let request = format!(r#"{{"model":"m","messages":[{{}}],"stream":true{options}}}"#);
    let request = ChatRequest::parse(request.into()).unwrap();
    let call = ProviderCall {
        request_id: RequestId::new(),
        attempt: 1,
    };
    block_on(async {
        let mut chunks = provider.chat_stream(&call, request).await.unwrap().chunks;
        while let Some(chunk) = chunks.next().await {
            let Ok(chunk) = chunk else {
                assert!(chunks.next().await.is_none(), "an error is the last item");
                return;
            };
            assert!(ChatChunk::from_frame(chunk.frame()).is_some(), "one line");
            let json = RawObject::parse(chunk.json()).expect("JSON goes on as JSON");
            let shown = json.get("usage").is_some();
            assert!(include_usage || chunk.without_choices || !shown);
        }
    });
});
