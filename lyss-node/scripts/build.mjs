// Builds the package where it lies: the native part with cargo, the rest with tsc.
//
//   node scripts/build.mjs [native|ts] [--debug] [--if-missing]
//
// Needs Rust (rustup.rs) and a C compiler. --debug compiles in minutes less and runs slower. --if-missing leaves alone
// what is built: npm calls it so after an installation. CARGO_TARGET_DIR is honoured; LYSS_LIBRARY names a library that
// is built already.

import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(dirname(fileURLToPath(import.meta.url)));
const options = process.argv.slice(2).filter((argument) => argument.startsWith("--"));
const parts = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));
const wanted = (part) => parts.length === 0 || parts.includes(part);
const debug = options.includes("--debug") || process.env.LYSS_BUILD === "debug";
const ifMissing = options.includes("--if-missing");

const binary = join(here, `lyss.${process.platform}-${process.arch}.node`);

function run(command, args, why) {
  try {
    return execFileSync(command, args, { cwd: here, stdio: ["ignore", "pipe", "inherit"], shell: process.platform === "win32", maxBuffer: 1 << 28 });
  } catch (error) {
    console.error(error.code === "ENOENT" ? `lyss: \`${command}\` is not installed: ${why}` : `lyss: \`${command} ${args.join(" ")}\` failed`);
    process.exit(1);
  }
}

/** The library, compiled. */
function compiled() {
  if (!existsSync(join(here, "Cargo.toml"))) {
    console.error(`lyss: there is no native part for ${process.platform}-${process.arch} in this package; install it from a checkout of Lyss on a machine with Rust`);
    process.exit(1);
  }
  const args = ["build", "-p", "lyss-node", "--message-format", "json-render-diagnostics"];
  if (!debug) args.push("--release");
  const output = run("cargo", args, "the native part of lyss is written in Rust; see https://rustup.rs");
  return output
    .toString()
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line))
    .filter((message) => message.reason === "compiler-artifact" && message.target.name === "lyss_node")
    .flatMap((message) => message.filenames)
    .find((file) => /\.(so|dylib|dll)$/.test(file));
}

if (wanted("native") && !(ifMissing && existsSync(binary))) {
  const library = process.env.LYSS_LIBRARY ?? compiled();
  // Not written over: a process that has it loaded would crash.
  copyFileSync(library, `${binary}.new`);
  renameSync(`${binary}.new`, binary);
}

if (wanted("ts") && !(ifMissing && existsSync(join(here, "dist", "index.js")))) {
  if (!existsSync(join(here, "node_modules", "typescript"))) {
    run("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"], "it comes with Node");
  }
  rmSync(join(here, "dist"), { recursive: true, force: true });
  const licence = join(here, "..", "LICENSE");
  if (existsSync(licence)) copyFileSync(licence, join(here, "LICENSE"));
  process.stdout.write(run(process.execPath, [join(here, "node_modules", "typescript", "bin", "tsc"), "-p", here], "it runs this script"));
}
