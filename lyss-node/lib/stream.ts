/** A streamed answer. */

import type { Exchange } from "./connection";
import { APIUserAbortError, errorOf, errorOfEvent, type ErrorBody } from "./errors";
import type { Meta } from "./meta";

/**
 * The items of a streamed answer, as they come: `for await (const chunk of stream)`, once.
 *
 * Leaving the loop, `abort()`, `await using` and forgetting the stream all end the call, also at the provider. An answer
 * that breaks off ends with an error; a loop that ends without one has seen all of it.
 */
export class Stream<Item> implements AsyncIterable<Item>, AsyncDisposable {
  /** What the gateway says about the answer. */
  readonly meta: Meta;
  #exchange: Exchange;
  #events: string[] = [];
  #at = 0;
  #consumed = false;
  #over = false;
  #aborted = false;
  #controller: AbortController | undefined;

  /** @internal */
  constructor(exchange: Exchange, meta: Meta) {
    this.#exchange = exchange;
    this.meta = meta;
    Object.defineProperty(this, "meta", { enumerable: false });
  }

  /** The gateway's id of the request. */
  get _request_id(): string | null {
    return this.meta.requestId;
  }

  /** As in the `openai` package: `stream.controller.abort()`. */
  get controller(): AbortController {
    if (!this.#controller) {
      this.#controller = new AbortController();
      this.#controller.signal.addEventListener("abort", () => this.abort(), { once: true });
    }
    return this.#controller;
  }

  /** Ends the call; a loop over the stream ends without an error. */
  abort(): void {
    this.#aborted = true;
    this.#finish();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.abort();
  }

  [Symbol.asyncIterator](): AsyncIterator<Item, undefined> {
    if (this.#consumed) throw new Error("the stream has been read already; keep what it yields, or make another call");
    this.#consumed = true;
    return {
      next: () => this.#next(),
      return: async () => {
        this.abort();
        return { done: true, value: undefined };
      },
    };
  }

  /** The items as lines of JSON, for handing on to a browser. */
  toReadableStream(): ReadableStream<Uint8Array> {
    const iterator = this[Symbol.asyncIterator]();
    const encoder = new TextEncoder();
    return new ReadableStream({
      async pull(controller) {
        const { done, value } = await iterator.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(`${JSON.stringify(value)}\n`));
      },
      async cancel() {
        await iterator.return?.();
      },
    });
  }

  async #next(): Promise<IteratorResult<Item, undefined>> {
    while (!this.#over) {
      if (this.#at < this.#events.length) {
        const event = this.#events[this.#at++]!;
        // What is no event of ours, such as a comment, means nothing.
        if (!event.startsWith("data: ")) continue;
        if (event === "data: [DONE]") break;
        const value = JSON.parse(event.slice(6)) as Item & { error?: ErrorBody };
        if (value.error) throw this.#failed(errorOfEvent(value.error, this.meta));
        return { done: false, value };
      }
      let piece: string | null;
      try {
        piece = (await this.#exchange.pull()) as string | null;
      } catch (error) {
        if (this.#aborted && error instanceof APIUserAbortError) break;
        throw this.#failed(error);
      }
      if (piece === null) {
        if (this.#aborted) break;
        const error = { message: "the stream ended before the answer was complete", type: "upstream_error", code: "upstream_incomplete" };
        throw this.#failed(errorOf(502, error, this.meta));
      }
      this.#events = piece.split("\n\n");
      this.#at = 0;
    }
    this.#finish();
    return { done: true, value: undefined };
  }

  #failed(error: unknown): unknown {
    this.#finish();
    return error;
  }

  #finish(): void {
    this.#over = true;
    this.#events = [];
    this.#exchange.end();
  }
}
