// What the tests stand on: an upstream of their own, and gateways over it in directories of their own.

import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { Gateway, type OpenOptions } from "lyss";

/** What the last user message tells the upstream to do. */
export type Order = "answer" | "hang" | "drip" | "cut" | "refuse" | "limit";

/** An OpenAI-shaped service that obeys the last message, and knows which calls are open. */
export class Upstream implements AsyncDisposable {
  readonly #server: Server;
  /** Calls that have come. */
  calls = 0;
  /** Calls whose connection is open and unanswered. */
  open = 0;
  /** Calls that the gateway has given up. */
  left = 0;
  /** The bodies that came. */
  readonly bodies: Record<string, unknown>[] = [];

  private constructor() {
    this.#server = createServer((request, response) => void this.#answer(request, response));
  }

  static async start(): Promise<Upstream> {
    const upstream = new Upstream();
    await new Promise<void>((resolve) => upstream.#server.listen(0, "127.0.0.1", resolve));
    return upstream;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/v1`;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = "";
    for await (const piece of request) text += String(piece);
    if (request.method === "GET") return void response.end(JSON.stringify({ object: "list", data: [{ id: "m", object: "model" }] }));
    const body = JSON.parse(text) as { stream?: boolean; messages: { content: string }[] };
    this.calls++;
    this.bodies.push(body);
    this.open++;
    response.on("close", () => {
      this.open--;
      if (!response.writableFinished) this.left++;
    });
    const order = body.messages.at(-1)!.content as Order;
    const json = (status: number, value: unknown, headers = {}) =>
      response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(value));
    if (order === "refuse") return void json(400, { error: { message: "temperature is too high", type: "invalid_request_error", param: "temperature", code: "bad_temperature" } });
    if (order === "limit") return void json(429, { error: { message: "slow down", type: "rate_limit", code: "rate" } }, { "retry-after": "7" });
    if (!body.stream) {
      if (order === "hang") return;
      return void json(200, { id: "c", object: "chat.completion", created: 1, model: "m", choices: [{ index: 0, message: { role: "assistant", content: order }, finish_reason: "stop" }], usage: { prompt_tokens: 3, completion_tokens: 1, total_tokens: 4 } });
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    const event = (delta: object, finish: string | null = null) =>
      response.write(`data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", created: 1, model: "m", choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`);
    event({ role: "assistant", content: "" });
    for (let at = 0; at < (order === "drip" ? 10_000 : 3); at++) {
      event({ content: `${at} ` });
      if (order === "drip") await sleep(5);
      if (response.destroyed) return;
    }
    if (order === "hang") return;
    if (order === "cut") return void setTimeout(() => response.destroy(), 30);
    event({}, "stop");
    response.end("data: [DONE]\n\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** A configuration over an upstream, with its data in `dir`. */
export function config(dir: string, upstream?: Upstream): Record<string, unknown> {
  const up = upstream ? { up: { kind: "openai", api_key: "sk-test", base_url: upstream.url, models: { m: "m" } } } : {};
  return {
    data: { dir },
    routing: { max_retries: 0, health_check: { enabled: false }, breaker: { enabled: false } },
    providers: { simulated: {}, ...up },
  };
}

const directories: string[] = [];
process.on("exit", () => directories.forEach((dir) => rmSync(dir, { recursive: true, force: true })));

/** A directory that is gone after the test file. */
export function directory(): string {
  const dir = mkdtempSync(join(tmpdir(), "lyss-node-"));
  directories.push(dir);
  return dir;
}

export function open(upstream?: Upstream, options?: OpenOptions): Promise<Gateway> {
  return Gateway.open(config(directory(), upstream), options);
}

/** Waits until something holds. */
export async function until(holds: () => boolean | Promise<boolean>, what: string, ms = 5000): Promise<void> {
  const end = Date.now() + ms;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await sleep(5);
  }
}

export const say = (content: string) => [{ role: "user" as const, content }];
