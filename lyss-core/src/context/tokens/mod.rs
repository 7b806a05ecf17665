//! How many tokens a text, a message or a request is for a model.
//!
//! A [`Counter`] belongs to one upstream model. For OpenAI's vocabularies it counts with tiktoken's own tables; for all
//! others it estimates by script (`estimate.rs`), and the engine corrects the estimate by what the provider reports
//! (`correction.rs`). Around the texts lie OpenAI's published rules for messages, tools and images (`chat.rs`,
//! `media.rs`).
//!
//! Counting never fails and never panics: what cannot be read as a message is counted as the text it is. Its cost is
//! bounded for any text (`vocabulary.rs`), but large: the `async` methods leave a runtime thread for texts over
//! [`INLINE_MOST`] and for the first use of a vocabulary, which takes up to 0.3 s. The other methods do all of it on the
//! calling thread.

mod chat;
mod correction;
mod estimate;
mod family;
mod media;
#[cfg(feature = "tiktoken")]
mod vocabulary;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

pub use correction::Corrections;
use correction::Ratio;
use family::Family;
pub use family::Tokenizer;

use crate::types::{ChatRequest, EmbeddingRequest, embedding::Input};

/// The most bytes that are counted on the calling thread by the `async` methods: 16 KiB of ordinary text take about half a
/// millisecond, of the worst one five.
pub const INLINE_MOST: usize = 16 * 1024;

/// The most bytes of one request that are counted with a vocabulary: over a million tokens of English. Messages beyond them
/// are estimated.
pub const COUNTED_MOST: usize = 4 * 1024 * 1024;

/// What a tool call of an answer costs besides its name and arguments.
pub const TOOL_CALL: u32 = chat::CALL;

/// Large counts at a time: they take a whole core each, and the rest of the process needs some, too.
static LARGE: Semaphore = Semaphore::const_new(2);

/// Counts tokens for one upstream model. Cheap to make and to clone.
///
/// # Example
/// ```
/// use lyss_core::context::tokens::Counter;
///
/// let counter = Counter::for_model("openai/gpt-4o-2024-08-06");
/// assert_eq!(counter.text("tiktoken is great!"), 6);
/// // 3 for the message, 1 for its role, 6 for its text.
/// assert_eq!(counter.message(br#"{"role":"user","content":"tiktoken is great!"}"#), 10);
/// ```
#[derive(Debug, Clone)]
pub struct Counter {
    family: Family,
    ratio: Option<Arc<Ratio>>,
}

/// What a request counts, and of what it is made up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenCount {
    /// The whole prompt.
    pub input_tokens: u64,
    /// Each message, in order.
    pub messages: Vec<u32>,
    /// The definitions of `tools` and `functions`.
    pub tools: u32,
    /// The schema of `response_format`.
    pub response_format: u32,
    /// What primes the reply.
    pub reply: u32,
    /// The whole prompt before the correction: what [`Corrections::learn`] compares with a report.
    pub uncorrected: u64,
}

impl Counter {
    /// A counter for a model, by the name that goes upstream. Provider prefixes (`openai/`), dates, `-latest` and the
    /// like, and the frame of fine-tuned names (`ft:gpt-4o:org::id`) do not matter. Estimates are not corrected: see
    /// [`Corrections::counter`].
    pub fn for_model(upstream_model: &str) -> Self {
        Self {
            family: Family::of(upstream_model),
            ratio: None,
        }
    }

    /// What it counts with.
    pub fn tokenizer(&self) -> Tokenizer {
        self.family.tokenizer
    }

    /// Tokens of a plain text.
    pub fn text(&self, text: &str) -> u32 {
        self.corrected(self.within(text.len()).text(text))
    }

    /// Tokens of one message, given as its JSON text, with what a message costs by itself. The tokens of a prompt are
    /// those of its messages, tools and schema and [`reply`](Self::reply).
    pub fn message(&self, json: &[u8]) -> u32 {
        self.corrected(chat::message(&self.within(json.len()), json))
    }

    /// Tokens that prime the reply: once for a prompt.
    pub fn reply(&self) -> u32 {
        chat::REPLY
    }

    /// Tokens of the message of an answer, without what a message costs by itself: what a provider reports as output.
    pub fn answer(&self, json: &[u8]) -> u32 {
        self.corrected(chat::answer(&self.within(json.len()), json))
    }

    /// Tokens of a request's prompt.
    pub fn request(&self, request: &ChatRequest) -> TokenCount {
        let body = request.body();
        let mut size = 0;
        let mut member = |text: &str, count: fn(&Family, &str) -> u64| {
            size += text.len();
            count(&self.within(size), text)
        };
        let elements = body.get("messages").map(|messages| messages.elements());
        let messages: Vec<u64> = elements
            .iter()
            .flatten()
            .map(|message| {
                member(message.text(), |family, text| {
                    chat::message(family, text.as_bytes())
                })
            })
            .collect();
        let mut optional = |name, count| {
            let value = body.get_some(name);
            value.map_or(0, |value| member(value.text(), count))
        };
        let tools = optional("tools", chat::tools) + optional("functions", chat::tools);
        let format = optional("response_format", chat::response_format);
        let uncorrected = messages.iter().sum::<u64>() + tools + format + u64::from(chat::REPLY);
        let mut count = TokenCount {
            input_tokens: 0,
            messages: messages.into_iter().map(|m| self.corrected(m)).collect(),
            tools: self.corrected(tools),
            response_format: self.corrected(format),
            reply: chat::REPLY,
            uncorrected,
        };
        count.input_tokens = count.messages.iter().copied().map(u64::from).sum::<u64>()
            + u64::from(count.tools)
            + u64::from(count.response_format)
            + u64::from(count.reply);
        count
    }

    /// Tokens of the inputs of an embeddings request: of a token array its length.
    pub fn inputs(&self, request: &EmbeddingRequest) -> u64 {
        match request.input() {
            Ok(Input::Texts(texts)) => texts.iter().map(|text| u64::from(self.text(text))).sum(),
            Ok(Input::Tokens(lists)) => lists.iter().map(|list| list.len() as u64).sum(),
            Err(_) => 0,
        }
    }

    /// [`message`](Self::message) for each of several, off the runtime's threads where that is due.
    pub async fn count_messages(&self, messages: Vec<Bytes>) -> Vec<u32> {
        let size = messages.iter().map(Bytes::len).sum();
        self.run(size, move |counter| {
            let mut size = 0;
            let count = |json: &Bytes| {
                size += json.len();
                counter.corrected(chat::message(&counter.within(size), json))
            };
            messages.iter().map(count).collect()
        })
        .await
    }

    /// [`request`](Self::request), off the runtime's threads where that is due.
    pub async fn count_request(&self, request: ChatRequest) -> TokenCount {
        let size = request.body().to_segments().len();
        self.run(size, move |counter| counter.request(&request))
            .await
    }

    /// Runs a count here if it is small and the vocabulary is at hand, else on a thread that may block.
    pub async fn run<T: Send + 'static>(
        &self,
        size: usize,
        count: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let small = size <= INLINE_MOST && self.family.is_ready();
        if small || tokio::runtime::Handle::try_current().is_err() {
            return count(self);
        }
        // It is never closed.
        let _turn = LARGE.acquire().await;
        let counter = self.clone();
        match tokio::task::spawn_blocking(move || count(&counter)).await {
            Ok(counted) => counted,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime shuts down and has not begun with it: this task ends here as well.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Loads the vocabulary in the background, so that a count that is due soon need not wait for it.
    pub fn warm(&self) {
        if !self.family.is_ready() && tokio::runtime::Handle::try_current().is_ok() {
            let family = self.family;
            tokio::task::spawn_blocking(move || family.load());
        }
    }

    /// What counts a text that ends this many bytes into its request.
    fn within(&self, size: usize) -> Family {
        match size <= COUNTED_MOST {
            true => self.family,
            false => self.family.estimated(),
        }
    }

    fn corrected(&self, tokens: u64) -> u32 {
        let tokens = match &self.ratio {
            Some(ratio) if self.family.tokenizer == Tokenizer::Estimate => ratio.apply(tokens),
            _ => tokens,
        };
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
