// The code of the README, run as it stands there: each block in a process of its own, with the names that it does not explain.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const here = fileURLToPath(new URL(".", import.meta.url));
const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
const blocks = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code);

const GIVEN = `
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import { Gateway, NotFoundError } from "lyss";
import OpenAI from "openai";
const messages = [{ role: "user", content: "Hello" }];
`;
const OPENED = `const gw = await Gateway.open("gateway.yaml");\n`;

test("there is code", () => assert.ok(blocks.length >= 4));

for (const [at, code] of blocks.entries()) {
  test(`block ${at + 1}: ${code.split("\n")[0]}`, async () => {
    const cwd = mkdtempSync(join(tmpdir(), "lyss-readme-"));
    const file = join(here, `.readme-${at}.mjs`);
    try {
      writeFileSync(join(cwd, "gateway.yaml"), "data: { dir: data }\nproviders: { simulated: {} }\n");
      writeFileSync(file, code.includes("import ") ? code : GIVEN + (code.startsWith("const gw") ? "" : OPENED) + code);
      const { stderr } = await promisify(execFile)(process.execPath, [file], { cwd, timeout: 20_000 });
      assert.equal(stderr, "");
    } finally {
      rmSync(file, { force: true });
      rmSync(cwd, { recursive: true });
    }
  });
}
