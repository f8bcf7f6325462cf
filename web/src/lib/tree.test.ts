import assert from "node:assert/strict";
import { test } from "node:test";
import { above, build, criticalPath, flatten, type SpanLine } from "./tree.ts";

const line = (
  id: string,
  parentId: string | null,
  start: number,
  end: number | null,
  status = "SUCCESS",
): SpanLine => ({ id, parentId, name: id, type: "STANDALONE", status, start, end });

const shape = (lines: SpanLine[], folded: string[] = []) =>
  flatten(build(lines), new Set(folded)).map((row) => `${"-".repeat(row.depth)}${row.key}`);

test("children stand under their parent in order of start, whatever order they came in", () => {
  const lines = [
    line("c", "a", 5, 6),
    line("a", null, 0, 9),
    line("b", "a", 1, 2),
    line("d", "b", 1, 2),
  ];
  assert.deepEqual(shape(lines), ["a", "-b", "--d", "-c"]);
  assert.deepEqual(shape(lines.toReversed()), ["a", "-b", "--d", "-c"]);
});

test("what is folded is left out, and said to be there", () => {
  const roots = build([line("a", null, 0, 9), line("b", "a", 1, 2), line("c", "b", 1, 2, "ERROR")]);
  assert.deepEqual(
    flatten(roots, new Set(["a"])).map((row) => row.key),
    ["a"],
  );
  assert.deepEqual([roots[0]?.below, roots[0]?.errorBelow], [2, true]);
});

test("a parent that is not stored has a row, which the parent takes over once it comes", () => {
  const orphan = line("b", "gone", 3, 4);
  assert.deepEqual(shape([line("a", null, 0, 9), orphan]), ["a", "gone", "-b"]);
  const [, missing] = build([line("a", null, 0, 9), orphan]);
  assert.deepEqual(
    [missing?.line, missing?.missing, missing?.start, missing?.end],
    [-1, "gone", 3, 4],
  );
  assert.deepEqual(shape([line("a", null, 0, 9), orphan, line("gone", "a", 2, 5)]), [
    "a",
    "-gone",
    "--b",
  ]);
});

test("parents in a cycle are shown, each once", () => {
  const rows = shape([
    line("a", "c", 0, 1),
    line("b", "a", 1, 2),
    line("c", "b", 2, 3),
    line("s", "s", 4, 5),
  ]);
  assert.deepEqual(rows.map((row) => row.replaceAll("-", "")).sort(), ["a", "b", "c", "s"]);
});

test("a chain of 20,000 is built", () => {
  const lines = Array.from({ length: 20_000 }, (_, n) =>
    line(`${n}`, n ? `${n - 1}` : null, n, 30_000),
  );
  const rows = flatten(build(lines), new Set());
  assert.equal(rows.at(-1)?.depth, 19_999);
  assert.equal(above(rows.at(-1) as never).length, 19_999);
});

test("the critical path is what the root waited for, and its own time between", () => {
  const lines = [
    line("root", null, 0, 100),
    line("early", "root", 10, 30),
    line("beside", "root", 20, 50),
    line("late", "root", 60, 90),
    line("inner", "late", 65, 80),
  ];
  assert.deepEqual(Object.fromEntries(criticalPath(build(lines), 100)), {
    root: [
      [0, 20],
      [50, 60],
      [90, 100],
    ],
    beside: [[20, 50]],
    late: [
      [60, 65],
      [80, 90],
    ],
    inner: [[65, 80]],
  });
});
