//! Embeddings: OpenAI's call of up to 2048 texts → native calls of 10 or 25, and their answers joined.
//!
//! # Source
//! Model Studio, "Text embedding" API reference, read 2026-11-22.

use bytes::Bytes;

use super::{
    error::malformed,
    model::embedding_batch,
    wire::{Answer, JsonText, push_string, usage},
};
use crate::{
    error::{Error, Result},
    provider::vectors::to_base64,
    types::{EmbeddingRequest, RawObject, RawValue, Segments, Usage, embedding::Input},
};

/// Below the base URL.
pub(super) const PATH: &str = "/services/embeddings/text-embedding/text-embedding";

/// Native calls of one request that run at the same time.
pub(super) const CONCURRENCY: usize = 4;

/// A native call and the number of texts in it.
pub(super) struct Batch {
    pub(super) body: Segments,
    pub(super) texts: usize,
}

/// Splits a request into native calls, in order.
///
/// # Errors
/// `invalid_value` for inputs that the provider does not take.
pub(super) fn batches(request: &EmbeddingRequest) -> Result<Vec<Batch>> {
    if matches!(request.input()?, Input::Tokens(_)) {
        return Err(Error::invalid(
            "input",
            "this provider takes texts, not token ids: send strings (langchain: `check_embedding_ctx_length=False`)",
        ));
    }
    let body = request.body();
    let input = body.get("input");
    let texts = match input {
        Some(input) if input.is_array() => input.elements(),
        input => input.into_iter().collect(),
    };
    let parameters = parameters(body);
    let batches = texts.chunks(embedding_batch(request.model()));
    Ok(batches
        .map(|texts| batch(request.model(), texts, &parameters))
        .collect())
}

fn batch(model: &str, texts: &[RawValue<'_>], parameters: &str) -> Batch {
    let mut out = JsonText::default();
    out.push("{").key("model").string(model);
    out.key("input").push("{").key("texts").push("[");
    for text in texts {
        out.comma().value(*text);
    }
    out.push("]}").key("parameters").push(parameters).push("}");
    Batch {
        body: out.finish(),
        texts: texts.len(),
    }
}

fn parameters(body: &RawObject) -> String {
    let mut out = JsonText::default();
    out.push("{");
    for (key, value) in body.members() {
        if value.is_null() {
            continue;
        }
        match &*key {
            "model" | "input" | "encoding_format" | "user" => {}
            "dimensions" => {
                out.key("dimension").value(value);
            }
            _ => {
                out.key(&key).value(value);
            }
        }
    }
    out.push("}");
    String::from_utf8_lossy(&out.finish().into_bytes()).into_owned()
}

/// What a native call gave.
pub(super) struct Vectors {
    /// By text: the vector's JSON (numbers as received, or base64), and the sparse one's.
    entries: Vec<(String, Option<String>)>,
    usage: Option<Usage>,
}

/// Reads the answer to a call of `texts` texts.
///
/// # Errors
/// `upstream_invalid_response` unless there is one vector for each text.
pub(super) fn read(
    body: &Bytes,
    answer: &Answer<'_>,
    texts: usize,
    base64: bool,
) -> Result<Vectors> {
    let embeddings = answer
        .output
        .as_ref()
        .and_then(|output| output.embeddings.as_deref());
    let mut entries: Vec<Option<(String, Option<String>)>> = vec![None; texts];
    for (position, embedding) in embeddings.unwrap_or_default().iter().enumerate() {
        let index = embedding.text_index.unwrap_or(position);
        let Some(entry @ None) = entries.get_mut(index) else {
            return Err(malformed("numbers its vectors wrongly", body));
        };
        let sparse = embedding
            .sparse_embedding
            .map(|sparse| sparse.get().to_owned());
        let vector = match embedding.embedding {
            Some(vector) => vector.get(),
            None if sparse.is_some() => "[]",
            None => return Err(malformed("has an entry without a vector", body)),
        };
        *entry = Some((
            if base64 {
                to_base64(vector).ok_or_else(|| malformed("has a vector that is none", body))?
            } else {
                vector.to_owned()
            },
            sparse,
        ));
    }
    match entries.into_iter().collect() {
        Some(entries) => Ok(Vectors {
            entries,
            usage: answer.usage.and_then(usage),
        }),
        None => Err(malformed("has fewer vectors than there are texts", body)),
    }
}

/// OpenAI's list from the answers, in the order of the calls, and the usage of all of them if each reported it.
pub(super) fn join(model: &str, batches: Vec<Vectors>) -> Result<(RawObject, Option<Usage>)> {
    let size: usize = batches
        .iter()
        .flat_map(|batch| &batch.entries)
        .map(|(vector, _)| vector.len() + 64)
        .sum();
    let mut out = Vec::with_capacity(size + 128);
    out.extend_from_slice(br#"{"object":"list","data":["#);
    let mut sum = Some(Usage::default());
    let mut index = 0;
    for batch in &batches {
        sum = sum.zip(batch.usage).map(|(sum, usage)| Usage {
            input_tokens: sum.input_tokens.saturating_add(usage.total_tokens()),
            ..sum
        });
        for (vector, sparse) in &batch.entries {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(
                format!(r#"{{"object":"embedding","index":{index},"embedding":"#).as_bytes(),
            );
            out.extend_from_slice(vector.as_bytes());
            if let Some(sparse) = sparse {
                out.extend_from_slice(br#","sparse_embedding":"#);
                out.extend_from_slice(sparse.as_bytes());
            }
            out.push(b'}');
            index += 1;
        }
    }
    out.extend_from_slice(br#"],"model":"#);
    push_string(&mut out, model);
    let usage = sum.and_then(Usage::plausible);
    if let Some(usage) = usage {
        let tokens = usage.input_tokens;
        out.extend_from_slice(
            format!(r#","usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}"#).as_bytes(),
        );
    }
    out.push(b'}');
    let body = Bytes::from(out);
    let object =
        RawObject::parse(body.clone()).map_err(|_| malformed("cannot be translated", &body))?;
    Ok((object, usage))
}
