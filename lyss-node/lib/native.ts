/** The native part: what `src/` of this package exports, and where its library lies. */

import { join } from "node:path";

/** What happened; the numbers are those of `src/inbox.rs`. */
export const enum Kind {
  Head = 0,
  Data = 1,
  End = 2,
  Cut = 3,
  Opened = 4,
  Refused = 5,
  Closed = 6,
  Ask = 7,
  More = 8,
  Leave = 9,
}

export type Payload = string | Buffer;

/** How the native part tells what happened to the call of an id; id 0 is the gateway itself. */
export type Dispatch = (id: number, kind: Kind, status: number, text: string, payload: Payload | null | undefined) => void;

export interface NativeCall {
  pull(): void;
  cancel(): void;
}

export interface NativeReplies {
  answer(id: number, status: number, retryAfter: string | null, body: string, more: boolean): void;
}

export interface NativeGateway {
  readonly replies: NativeReplies;
  call(
    id: number,
    text: boolean,
    method: string,
    path: string,
    headers: string[],
    body: string | Uint8Array | null,
    key: string | null,
  ): NativeCall;
  registerProvider(id: string, models: string[]): void;
  close(graceMs: number): void;
}

interface Native {
  NativeGateway: new (kind: string, text: string, dispatch: Dispatch) => NativeGateway;
}

let loaded: Native | undefined;

/** The library; loaded at the first use, so that types and errors can be imported anywhere. */
export function native(): Native {
  return (loaded ??= load());
}

function load(): Native {
  const platform = `${process.platform}-${process.arch}`;
  const file = join(__dirname, "..", `lyss.${platform}.node`);
  try {
    return require(file) as Native;
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "MODULE_NOT_FOUND";
    const what = missing
      ? `lyss has no native part for ${platform}; build it with \`npm run build\` in the directory of the package (needs Rust)`
      : `the native part of lyss cannot be loaded: ${(error as Error).message}`;
    throw new Error(what, { cause: error });
  }
}
