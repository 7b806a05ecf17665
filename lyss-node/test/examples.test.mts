// The examples of the repository, run as their readers run them, twice: the second time the data is there.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, rmSync, symlinkSync } from "node:fs";
import { after, before, test } from "node:test";
import { promisify } from "node:util";

import { directory } from "./world.mjs";

const PACKAGE = new URL("../../", import.meta.url).pathname;
const EXAMPLES = new URL("../../../examples/node/", import.meta.url).pathname;
/** What `npm install` makes there. */
const MODULES = `${EXAMPLES}node_modules`;

const EXPECTED: Record<string, string> = {
  quickstart: "Hello, gateway\nfrom simulated, 5 tokens\n",
  streaming: "one two three four five\n5 tokens\ncancelled after some few tokens\n",
  tools: 'weather -> {"city":"Bremen","degrees":21}\nHow warm is it in Bremen?\n',
  session: "user: My name is Ann.\nassistant: My name is Ann.\nuser: What is my name?\nassistant: What is my name?\n",
  budget: "refused with 402 budget_exceeded\n3 calls, and no more than 0.1 spent: true\n",
  fallback: "simulated answered at attempt 2: Is somebody there?\n",
};

before(() => {
  rmSync(MODULES, { recursive: true, force: true });
  mkdirSync(MODULES);
  symlinkSync(PACKAGE, `${MODULES}/lyss`);
});
after(() => rmSync(MODULES, { recursive: true, force: true }));

for (const [name, expected] of Object.entries(EXPECTED)) {
  test(`${name}.js`, async () => {
    const cwd = directory();
    // A budget of a day is used up the first time.
    for (const _ of name === "budget" ? [1] : [1, 2]) {
      const { stdout, stderr } = await promisify(execFile)(process.execPath, [`${EXAMPLES}${name}.js`], { cwd, timeout: 20_000 });
      assert.deepEqual([stdout, stderr], [expected, ""]);
    }
  });
}
