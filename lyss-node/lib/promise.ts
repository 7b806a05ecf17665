/** The promise of an answer. */

import type { Meta } from "./meta";

/** A promise of an answer, which can also be had with the response around it, as in the `openai` package. */
export class APIPromise<T> extends Promise<T> {
  /** What comes of `then` is an ordinary promise. */
  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  /** @internal */
  static of<T>(promise: Promise<T>): APIPromise<T> {
    return new APIPromise((resolve, reject) => promise.then(resolve, reject));
  }

  /** The answer, and the response that it came in: status and headers; its body is read. */
  async withResponse(): Promise<{ data: T; response: Response; request_id: string | null }> {
    const data = await this;
    const { headers, requestId } = (data as { meta: Meta }).meta;
    return { data, response: new Response(null, { status: 200, headers }), request_id: requestId };
  }
}
