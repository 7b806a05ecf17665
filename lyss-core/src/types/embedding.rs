//! An embeddings request in OpenAI's shape.

use bytes::Bytes;

use super::{
    chat::{name_field, required_name},
    raw::{RawObject, Segments},
};
use crate::error::{Error, Result};

/// OpenAI's limit on inputs in one call.
pub const MAX_INPUTS: usize = 2048;

/// An embeddings request.
///
/// # Shape
/// OpenAI's `POST /embeddings` body plus `user_id`: `input` is a string, an array of strings, an array of token
/// ids, or an array of arrays of token ids.
#[derive(Debug, Clone)]
pub struct EmbeddingRequest {
    body: RawObject,
    model: String,
    user_id: Option<String>,
    user: Option<String>,
    base64: bool,
    /// Members that were left of the text.
    kept: usize,
}

/// The input of an embeddings request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Texts, in order.
    Texts(Vec<String>),
    /// Lists of token ids, in order.
    Tokens(Vec<Vec<u32>>),
}

impl EmbeddingRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// `invalid_json`, `duplicate_key`, `missing_field`, `invalid_value`; the message names the field.
    pub fn parse(text: Bytes) -> Result<Self> {
        let mut body = RawObject::parse(text)?;
        let model = required_name(&body, "model")?;
        if body.get_some("input").is_none() {
            return Err(Error::missing("input"));
        }
        let base64 = match body
            .get_some("encoding_format")
            .map(|format| format.as_str())
        {
            None => false,
            Some(Some(format)) if format == "float" => false,
            Some(Some(format)) if format == "base64" => true,
            Some(_) => {
                return Err(Error::invalid(
                    "encoding_format",
                    "`encoding_format` must be \"float\" or \"base64\"",
                ));
            }
        };
        let user_id = name_field(&body, "user_id")?;
        let user = name_field(&body, "user")?;
        body.remove("user_id");
        Ok(Self {
            kept: body.len(),
            body,
            model,
            user_id,
            user,
            base64,
        })
    }

    /// The model that is asked for.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Sets the model that goes upstream.
    pub fn set_model(&mut self, model: &str) {
        if self.model != model {
            self.model = model.to_owned();
            self.body.set_str("model", model);
        }
    }

    /// The gateway's `user_id` in the body: whom the call is made for.
    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_deref()
    }

    /// OpenAI's `user` in the body: a tag that goes upstream, and names the user when nothing else does.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether vectors are wanted as base64 of little-endian float32 (both official SDKs ask for it).
    pub fn base64(&self) -> bool {
        self.base64
    }

    /// The input, decoded.
    ///
    /// # Errors
    /// `invalid_value` unless it is one of the four shapes with 1 to [`MAX_INPUTS`] items.
    pub fn input(&self) -> Result<Input> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Text(String),
            Texts(Vec<String>),
            Tokens(Vec<u32>),
            TokenLists(Vec<Vec<u32>>),
        }
        let wrong = || {
            Error::invalid(
                "input",
                "`input` must be a non-empty string, an array of strings, an array of token ids or an array of such arrays",
            )
        };
        let input = self.body.get("input").ok_or_else(wrong)?;
        let input = match input.decode::<Wire>().map_err(|_| wrong())? {
            Wire::Text(text) => Input::Texts(vec![text]),
            Wire::Texts(texts) => Input::Texts(texts),
            Wire::Tokens(tokens) => Input::Tokens(vec![tokens]),
            Wire::TokenLists(lists) => Input::Tokens(lists),
        };
        let (count, empty) = match &input {
            Input::Texts(texts) => (texts.len(), texts.iter().any(String::is_empty)),
            Input::Tokens(lists) => (lists.len(), lists.iter().any(Vec::is_empty)),
        };
        if count == 0 || empty {
            return Err(wrong());
        }
        if count > MAX_INPUTS {
            return Err(Error::invalid(
                "input",
                format!("`input` may hold at most {MAX_INPUTS} items, not {count}"),
            ));
        }
        Ok(input)
    }

    /// The body in OpenAI's shape, without the gateway's own fields.
    pub fn body(&self) -> &RawObject {
        &self.body
    }

    /// The body, to be edited by a provider.
    pub fn body_mut(&mut self) -> &mut RawObject {
        &mut self.body
    }

    /// The body in slices.
    pub fn to_segments(&self) -> Segments {
        self.body.to_segments()
    }

    /// The body as it would go to a Lyss service, which takes `user_id`: the very bytes that came, unless something was
    /// changed.
    pub(crate) fn as_received(&self) -> Segments {
        if !self.body.is_changed() && self.body.len() == self.kept {
            return Segments(vec![self.body.received().clone()]);
        }
        let mut body = self.body.clone();
        if let Some(user) = &self.user_id {
            body.set_str("user_id", user);
        }
        body.to_segments()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn input(json: &str) -> Result<Input> {
        EmbeddingRequest::parse(format!(r#"{{"model":"m","input":{json}}}"#).into())?.input()
    }

    #[test]
    fn reads_the_four_shapes() {
        assert_eq!(input(r#""a""#).unwrap(), Input::Texts(vec!["a".into()]));
        assert_eq!(
            input(r#"["a","b"]"#).unwrap(),
            Input::Texts(vec!["a".into(), "b".into()])
        );
        assert_eq!(input("[1,2]").unwrap(), Input::Tokens(vec![vec![1, 2]]));
        assert_eq!(
            input("[[1],[2]]").unwrap(),
            Input::Tokens(vec![vec![1], vec![2]])
        );
    }

    #[test]
    fn refuses_the_rest() {
        for json in [
            r#""""#,
            "[]",
            r#"["a",""]"#,
            "{}",
            "7",
            "[-1]",
            r#"["a",1]"#,
        ] {
            assert_eq!(input(json).unwrap_err().param(), Some("input"), "{json}");
        }
        let many = format!("[{}]", vec![r#""a""#; MAX_INPUTS + 1].join(","));
        assert!(input(&many).unwrap_err().message().contains("2048"));
    }
}
