import assert from "node:assert/strict";
import { test } from "node:test";
import { align } from "./align.ts";

const line = (id: string, name: string, parentId: string | null, start: number) => ({
  id,
  name,
  parentId,
  type: "STANDALONE",
  status: "SUCCESS",
  start,
  end: start + 1,
  model: null,
  inputTokens: null,
  outputTokens: null,
  error: null,
  change: 1,
});

const show = (a: ReturnType<typeof line>[], b: ReturnType<typeof line>[]) =>
  align(a, b).map(
    ({ depth, name, a: left, b: right }) =>
      `${"-".repeat(depth)}${name} ${left?.id ?? "·"} ${right?.id ?? "·"}`,
  );

test("spans pair by path and name, repeats in their order", () => {
  const a = [
    line("1", "turn", null, 0),
    line("2", "llm", "1", 1),
    line("3", "tool", "1", 2),
    line("4", "llm", "1", 3),
  ];
  const b = [
    line("x", "turn", null, 0),
    line("y", "llm", "x", 1),
    line("z", "llm", "x", 2),
    line("w", "guard", "x", 3),
  ];
  assert.deepEqual(show(a, b), ["turn 1 x", "-llm 2 y", "-tool 3 ·", "-llm 4 z", "-guard · w"]);
});

test("what only the second trace did stands where it happened", () => {
  const a = [line("1", "end", null, 5)];
  const b = [line("x", "begin", null, 0), line("y", "end", null, 5), line("z", "more", null, 6)];
  assert.deepEqual(show(a, b), ["begin · x", "end 1 y", "more · z"]);
});
