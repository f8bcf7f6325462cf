import assert from "node:assert/strict";
import { before, test } from "node:test";

// Loaded late: its clock asks a document whether it is hidden.
let TraceView: typeof import("./trace_view.ts").TraceView;

before(async () => {
  Object.assign(globalThis, { document: { hidden: true } });
  ({ TraceView } = await import("./trace_view.ts"));
});

const line = (id: string, parentId: string | null, start: number, more: object = {}) => ({
  id,
  parentId,
  name: id,
  type: "STANDALONE",
  status: "SUCCESS",
  start,
  end: start + 10,
  model: null,
  inputTokens: null,
  outputTokens: null,
  error: null,
  change: 1,
  ...more,
});

const keys = (view: InstanceType<typeof TraceView>) => view.rows.value.map((row) => row.key);

test("an older version never replaces a newer one", () => {
  const view = new TraceView();
  view.take(100n, [line("a", null, 0, { end: 50, change: 7 })]);
  view.take(100n, [line("a", null, 0, { end: null, change: 6 })]);
  assert.equal(view.lines.value[0]?.end, 50);
});

test("a span that began before all others moves the start, not the moments", () => {
  const view = new TraceView();
  view.take(1000n, [line("b", "a", 0)]);
  view.take(900n, [line("a", null, 0, { end: 500 })]);
  assert.equal(view.startNs.value, 900n);
  assert.deepEqual(
    view.lines.value.map(({ id, start, end }) => [id, start, end]),
    [
      ["b", 100, 110],
      ["a", 0, 500],
    ],
  );
  view.take(1000n, [line("c", "a", 5)]);
  assert.equal(view.lines.value[2]?.start, 105);
});

test("selecting opens what is folded, and what arrives keeps the choice", () => {
  const view = new TraceView();
  view.take(0n, [line("a", null, 0), line("b", "a", 1), line("c", "b", 2)]);
  view.foldAll(true);
  assert.deepEqual(keys(view), ["a"]);
  view.select("c");
  assert.deepEqual(keys(view), ["a", "b", "c"]);
  view.take(0n, [line("d", "a", 0)]);
  assert.equal(view.selected.value, "c");
});

test("a missing parent's row keeps the choice when the parent comes", () => {
  const view = new TraceView();
  view.take(0n, [line("b", "a", 1)]);
  view.select("a");
  assert.equal(view.find("a")?.missing, "a");
  view.take(0n, [line("a", null, 0)]);
  assert.equal(view.find("a")?.missing, null);
  assert.equal(view.selected.value, "a");
});

test("jumping visits each error once, folded ones too, and goes round", () => {
  const view = new TraceView();
  const failed = { status: "ERROR" };
  view.take(0n, [
    line("a", null, 0),
    line("b", "a", 1, failed),
    line("c", "b", 2, failed),
    line("d", "a", 3),
  ]);
  view.foldAll(true);
  const seen = [1, 2, 3].map(() => {
    view.jump(view.errors.value, 1);
    return view.selected.value;
  });
  assert.deepEqual(seen, ["b", "c", "b"]);
  view.jump(view.errors.value, -1);
  assert.equal(view.selected.value, "c");
});

test("a search finds names, ids, models and errors, in any case", () => {
  const view = new TraceView();
  view.take(0n, [line("a", null, 0, { model: "GPT-5" }), line("b", "a", 1, { error: "Boom" })]);
  view.search.value = "gpt";
  assert.deepEqual(view.matches.value, ["a"]);
  view.search.value = "boom";
  assert.deepEqual(view.matches.value, ["b"]);
});
