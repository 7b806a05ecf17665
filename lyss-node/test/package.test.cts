// The package as CommonJS programs load it.

import assert = require("node:assert/strict");
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import lyss = require("lyss");

test("require() gives the same surface", async () => {
  const dir = mkdtempSync(join(tmpdir(), "lyss-node-"));
  const gw = await lyss.Gateway.open({ data: { dir }, providers: { simulated: {} } });
  const answer = await gw.chat.completions.create({ model: "simulated/echo", messages: [{ role: "user", content: "hi" }] });
  assert.equal(answer.choices[0]?.message.content, "hi");
  await assert.rejects(gw.models.retrieve("none"), lyss.NotFoundError);
  await gw.close();
  rmSync(dir, { recursive: true });
});
