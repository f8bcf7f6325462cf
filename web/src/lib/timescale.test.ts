import assert from "node:assert/strict";
import { test } from "node:test";
import { ALL, clampZoom, Timescale, ticks, zoomAt } from "./timescale.ts";

test("without collapsing, time is proportional", () => {
  const scale = new Timescale(1000, null);
  assert.deepEqual(
    [0, 250, 1000].map((ns) => scale.toPart(ns)),
    [0, 0.25, 1],
  );
  assert.equal(scale.toNs(0.25), 250);
});

test("idle stretches are narrow when collapsed, and every moment has one place", () => {
  const scale = new Timescale(1000, [
    { start: 900, end: 1000 },
    { start: 0, end: 100 },
  ]);
  assert.deepEqual(scale.idle, [{ start: 100, end: 900 }]);
  assert.ok(scale.toPart(900) - scale.toPart(100) < 0.06);
  for (const ns of [0, 50, 100, 500, 900, 950, 1000]) {
    assert.ok(Math.abs(scale.toNs(scale.toPart(ns)) - ns) < 1e-6);
  }
});

test("a window stays within the whole and keeps the point it is zoomed at", () => {
  const zoom = zoomAt(ALL, 0.9, 0.5);
  assert.ok(Math.abs((0.9 - zoom.from) / (zoom.to - zoom.from) - 0.9) < 1e-9);
  assert.deepEqual(zoomAt({ from: 0.2, to: 0.4 }, 0.3, 100), ALL);
  assert.deepEqual(clampZoom(-1, -0.5), { from: 0, to: 0.5 });
});

test("a ruler has round marks", () => {
  assert.deepEqual(ticks(new Timescale(4_210_000_000, null), ALL, 5), [0, 1e9, 2e9, 3e9, 4e9]);
});
