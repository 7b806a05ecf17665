/** Listings, a page at a time. */

import { withMeta, type Meta, type WithMeta } from "./meta";
import type { List } from "./types/records";

/**
 * A page of a listing: `data` is this page, `for await (const entry of page)` goes on over the pages that follow.
 */
export class Page<T> implements List<T>, WithMeta, AsyncIterable<T> {
  readonly object = "list";
  /** The entries of this page. */
  readonly data: T[];
  /** The `cursor` of the next page; `null` on the last. */
  readonly next_cursor: string | null;
  declare readonly meta: Meta;
  declare readonly _request_id: string | null;
  #follow: (cursor: string) => Promise<Page<T>>;

  /** @internal */
  constructor(list: List<T> & { next_cursor?: string | null }, meta: Meta, follow: (cursor: string) => Promise<Page<T>>) {
    this.data = list.data;
    this.next_cursor = list.next_cursor ?? null;
    this.#follow = follow;
    withMeta(this, meta);
  }

  hasNextPage(): boolean {
    return this.next_cursor !== null;
  }

  /** The page after this one; throws on the last. */
  getNextPage(): Promise<Page<T>> {
    if (this.next_cursor === null) throw new Error("this is the last page; ask `hasNextPage()` first");
    return this.#follow(this.next_cursor);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, undefined> {
    for (let page: Page<T> = this; ; page = await page.getNextPage()) {
      yield* page.data;
      if (!page.hasNextPage()) return;
    }
  }
}
