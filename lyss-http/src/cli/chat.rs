//! `lyss chat`: talk to the gateway over HTTP, streaming.

use std::io::{BufRead, IsTerminal, Write};

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

use super::{Failure, Global, Outcome, screen};

#[derive(clap::Args)]
pub(super) struct Args {
    /// What to say; without it the conversation is interactive
    message: Option<String>,
    /// The model; the first one listed if absent
    #[arg(long)]
    model: Option<String>,
    /// Keep the conversation in this session of the gateway (`new` begins one)
    #[arg(long)]
    session: Option<String>,
    /// Where the gateway is; from the configuration if absent
    #[arg(long)]
    url: Option<String>,
}

/// The largest error body and event that is read.
const MAX_TEXT: usize = 1 << 20;

struct Talk {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    key: Option<String>,
    model: String,
    session: Option<String>,
    /// What was said; with a session the gateway remembers.
    messages: Vec<Value>,
}

pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let env = global.env()?;
    let url = match args.url {
        Some(url) => url.trim_end_matches('/').trim_end_matches("/v1").to_owned(),
        None => {
            let config = global.config()?;
            let mut found = tokio::net::lookup_host(config.server.http.addr.as_str())
                .await
                .map_err(Failure::outside)?;
            let address = found.next().ok_or_else(|| {
                Failure::Outside(format!("{} has no address", config.server.http.addr))
            })?;
            screen::base_url(&config, address)
        }
    };
    let provider = rustls::crypto::ring::default_provider();
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(provider)
        .map_err(Failure::outside)?
        .https_or_http()
        .enable_http1()
        .build();
    let mut talk = Talk {
        client: Client::builder(TokioExecutor::new()).build(connector),
        url,
        key: env.non_empty("LYSS_API_KEY").map(str::to_owned),
        model: args.model.unwrap_or_default(),
        session: args.session,
        messages: Vec::new(),
    };
    if talk.model.is_empty() {
        talk.model = talk.first_model().await?;
    }
    match args.message {
        Some(message) => talk.say(&message).await,
        None => talk.converse().await,
    }
}

impl Talk {
    /// Lines of stdin, until it ends.
    async fn converse(&mut self) -> Outcome {
        let terminal = std::io::stdin().is_terminal();
        if terminal {
            eprintln!("{} at {}; Ctrl-D ends", self.model, self.url);
        }
        loop {
            if terminal {
                eprint!("> ");
            }
            let mut line = String::new();
            let read = std::io::stdin().lock().read_line(&mut line);
            if read.map_err(Failure::outside)? == 0 {
                return Ok(());
            }
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            match self.say(line).await {
                // One refused turn does not end a conversation with a person.
                Err(Failure::Wrong(message) | Failure::Outside(message)) if terminal => {
                    eprintln!("{message}");
                }
                other => other?,
            }
        }
    }

    async fn say(&mut self, text: &str) -> Outcome {
        let said = json!({"role": "user", "content": text});
        let mut messages = self.messages.clone();
        messages.push(said.clone());
        let mut body = json!({"model": self.model, "messages": messages, "stream": true});
        if let (Some(session), Some(body)) = (&self.session, body.as_object_mut()) {
            body.insert("session_id".into(), json!(session));
        }
        let body = serde_json::to_vec(&body).map_err(Failure::outside)?;
        let answer = self
            .send(Method::POST, "/v1/chat/completions", body.into())
            .await?;
        let session = answer
            .headers()
            .get("x-lyss-session-id")
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        let spoken = print_stream(answer.into_body()).await?;
        if self.session.is_none() {
            self.messages.push(said);
            self.messages
                .push(json!({"role": "assistant", "content": spoken}));
        } else if self.session.as_deref() == Some("new") && session.is_some() {
            eprintln!("session {}", session.as_deref().unwrap_or_default());
            self.session = session;
        }
        Ok(())
    }

    async fn first_model(&self) -> Result<String, Failure> {
        let answer = self.send(Method::GET, "/v1/models", Bytes::new()).await?;
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(Failure::outside)?;
        let models: Value = serde_json::from_slice(&body.to_bytes()).map_err(Failure::outside)?;
        models
            .pointer("/data/0/id")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| {
                Failure::Wrong("the gateway lists no model; name one with --model".into())
            })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>, Failure> {
        let url = format!("{}{path}", self.url);
        let uri: Uri = url
            .parse()
            .map_err(|error| Failure::Usage(format!("{url}: {error}")))?;
        let mut request = Request::builder().method(method).uri(uri);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::Usage(format!("{url}: {error}")))?;
        let answer = self.client.request(request).await.map_err(|error| {
            Failure::Outside(format!("no gateway answers at {}: {error}", self.url))
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = http_body_util::Limited::new(answer.into_body(), MAX_TEXT);
        let text = body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        let message = serde_json::from_slice::<Value>(&text)
            .ok()
            .and_then(|error| Some(error.pointer("/error/message")?.as_str()?.to_owned()))
            .unwrap_or_else(|| "no message".to_owned());
        let message = format!("{status}: {message}");
        Err(if status.is_client_error() {
            Failure::Wrong(message)
        } else {
            Failure::Outside(message)
        })
    }
}

/// Prints the text of a streamed answer as it comes, and gives it as a whole.
async fn print_stream(mut body: Incoming) -> Result<String, Failure> {
    let (mut buffer, mut spoken, mut done) = (Vec::new(), String::new(), false);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Failure::outside)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let Some(event) = line.trim().strip_prefix("data:") else {
                continue;
            };
            if event.trim() == "[DONE]" {
                done = true;
                continue;
            }
            let event: Value = serde_json::from_str(event).map_err(Failure::outside)?;
            if let Some(message) = event.pointer("/error/message").and_then(Value::as_str) {
                println!();
                return Err(Failure::Outside(message.to_owned()));
            }
            if let Some(text) = event
                .pointer("/choices/0/delta/content")
                .and_then(Value::as_str)
            {
                spoken.push_str(text);
                let mut out = std::io::stdout();
                out.write_all(text.as_bytes())
                    .and_then(|()| out.flush())
                    .map_err(Failure::outside)?;
            }
        }
        if buffer.len() > MAX_TEXT {
            return Err(Failure::Outside(
                "the answer has an event that is too long".into(),
            ));
        }
    }
    println!();
    if done {
        Ok(spoken)
    } else {
        Err(Failure::Outside("the answer ended early".into()))
    }
}
