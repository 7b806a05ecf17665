//! OpenAI's list of embeddings, written from vectors that came in another form, order or number of calls.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;

use crate::types::{RawObject, Usage};

/// The JSON text of one vector as base64 of little-endian float32; `None` if it is no array of numbers.
pub(crate) fn to_base64(json: &str) -> Option<String> {
    let numbers: Vec<f32> = serde_json::from_str(json).ok()?;
    let bytes: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    Some(format!("\"{}\"", BASE64_STANDARD.encode(bytes)))
}

/// OpenAI's embeddings list. `vectors` are JSON texts, in order.
pub(crate) fn write_list<'a>(
    model: &str,
    vectors: impl IntoIterator<Item = Cow<'a, str>>,
    usage: Option<Usage>,
) -> RawObject {
    let mut data = String::from("[");
    for (index, vector) in vectors.into_iter().enumerate() {
        if index > 0 {
            data.push(',');
        }
        data.push_str(&format!(
            r#"{{"object":"embedding","index":{index},"embedding":{vector}}}"#
        ));
    }
    data.push(']');
    let mut list = RawObject::empty();
    list.set_str("object", "list");
    list.set("data", Bytes::from(data));
    list.set_str("model", model);
    if let Some(usage) = usage {
        let (prompt, total) = (usage.input_tokens, usage.total_tokens());
        list.set(
            "usage",
            Bytes::from(format!(
                r#"{{"prompt_tokens":{prompt},"total_tokens":{total}}}"#
            )),
        );
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_little_endian_float32() {
        // Made with Python's struct.pack('<4f', …), as the SDKs read it.
        assert_eq!(
            to_base64("[0.5573119,-0.417359,-0.4523473,0.5573119]").as_deref(),
            Some("\"/qsOPxSw1b4Rmue+/qsOPw==\"")
        );
        assert_eq!(to_base64("\"x\""), None);
    }
}
