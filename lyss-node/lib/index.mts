// One copy of the package in a process, however it is imported: `instanceof` holds between the two.
export * from "./index.js";
