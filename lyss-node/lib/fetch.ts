/** `gw.fetch`: the whole HTTP surface for whatever takes a `fetch`, without a socket. */

import type { Client } from "./client";
import { withQuery } from "./client";
import { APITimeoutError, APIUserAbortError } from "./errors";
import { Meta } from "./meta";
import type { Exchange } from "./connection";

/** Headers that mean something to a socket, or to nobody here. The process says for whom a call is, not a header. */
const LEFT_OUT = /^(?:authorization|host|connection|content-length|transfer-encoding|accept.*|user-agent|x-stainless-.*)$/;

type Init = RequestInit & { body?: unknown };
type Body = ConstructorParameters<typeof Response>[0];

/** Makes the call that a `fetch` with these arguments would make to a service. Only path and query of the URL count. */
export async function fetchThrough(client: Client, input: string | URL | Request, init: RequestInit = {}): Promise<Response> {
  const from: Init = input instanceof Request ? merged(input, init) : init;
  const url = new URL(input instanceof Request ? input.url : String(input), "http://lyss");
  const method = (from.method ?? "GET").toUpperCase();
  const signal = from.signal ?? undefined;
  // As fetch does: the caller's own reason, not an error of ours.
  signal?.throwIfAborted();
  const body = from.body == null ? null : await bytesOf(from.body);
  const { userId, apiKey, timeout } = client.options;
  let path = url.pathname + url.search;
  if (userId !== undefined && !url.searchParams.has("user_id")) path = withQuery(path, { user_id: userId });
  const exchange = client.connection.start({
    method,
    path,
    headers: headersOf(from.headers, client.options.headers),
    body,
    key: apiKey ?? null,
    text: false,
    signal,
    timeout,
  });
  const head = await exchange.head().catch((error: unknown) => {
    throw asFetch(error, signal);
  });
  const answer = { status: head.status, headers: new Meta(head.text).headers };
  if (head.payload === null) return new Response(streamOf(exchange, signal), answer);
  const nothing = head.status === 204 || head.status === 304 || method === "HEAD";
  return new Response(nothing ? null : (head.payload as unknown as Body), answer);
}

function merged(request: Request, init: RequestInit): Init {
  return {
    method: init.method ?? request.method,
    headers: init.headers ?? request.headers,
    body: init.body !== undefined ? init.body : request.body,
    signal: init.signal ?? request.signal,
  };
}

async function bytesOf(body: unknown): Promise<string | Uint8Array> {
  if (typeof body === "string" || body instanceof Uint8Array) return body;
  return new Uint8Array(await new Response(body as Body).arrayBuffer());
}

function headersOf(sent: RequestInit["headers"], own: Readonly<Record<string, string | null | undefined>> = {}): string[] {
  const headers: string[] = [];
  for (const [name, value] of Object.entries(own)) if (value != null) headers.push(name, value);
  if (!sent) return headers;
  const pairs: Iterable<[string, string]> = sent instanceof Headers ? sent : new Headers(sent);
  for (const [name, value] of pairs) if (!LEFT_OUT.test(name)) headers.push(name, value);
  return headers;
}

function streamOf(exchange: Exchange, signal: AbortSignal | undefined): ReadableStream<Uint8Array> {
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const piece = (await exchange.pull()) as Uint8Array | null;
          if (piece === null) controller.close();
          else controller.enqueue(piece);
        } catch (error) {
          controller.error(asFetch(error, signal));
        }
      },
      cancel() {
        exchange.end();
      },
    },
    { highWaterMark: 0 },
  );
  return body;
}

/** What `fetch` rejects with: the signal's reason, a `TypeError` where no answer came. */
function asFetch(error: unknown, signal: AbortSignal | undefined): unknown {
  if (error instanceof APIUserAbortError) return signal?.aborted ? signal.reason : new DOMException("This operation was aborted", "AbortError");
  if (error instanceof APITimeoutError) return new DOMException(error.message, "TimeoutError");
  return new TypeError("fetch failed", { cause: error });
}
