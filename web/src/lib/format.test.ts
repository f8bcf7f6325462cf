import assert from "node:assert/strict";
import { test } from "node:test";
import { age, bytes, cost, count, duration, oneLine, toMs, visible } from "./format.ts";

test("a duration has three digits and the unit that suits it", () => {
  const cases: [bigint, string][] = [
    [0n, "0ns"],
    [850_000n, "850µs"],
    [12_345_000n, "12.3ms"],
    [999_999_999n, "999ms"],
    [4_219_000_000n, "4.21s"],
    [125_000_000_000n, "2m05s"],
    [11_220_000_000_000n, "3h07m"],
    [-1_500_000n, "-1.50ms"],
  ];
  for (const [ns, text] of cases) assert.equal(duration(ns), text);
});

test("nanoseconds beyond 2^53 keep their milliseconds", () => {
  assert.equal(toMs("1767323045123456789"), 1767323045123.456);
});

test("figures are short", () => {
  assert.deepEqual([950, 8_149, 999_499, 1_240_000].map(count), ["950", "8.15k", "999k", "1.24M"]);
  assert.deepEqual([0, 0.04, 0.00123, 12.3].map(cost), ["$0", "$0.04", "$0.0012", "$12.30"]);
  assert.deepEqual([512, 65_536, 5_452_595].map(bytes), ["512 B", "64.0 KB", "5.2 MB"]);
  assert.deepEqual([0, 12_300, 300_000, 7.2e6, 2e8].map(age), ["now", "12s", "5m", "2h", "2d"]);
});

test("what would turn or hide the text is shown", () => {
  assert.equal(visible("a\u202eb\u0000c\u001b[31m\nd"), "a⟨U+202E⟩b␀c␛[31m␊d".replace("␊", "\n"));
  assert.equal(oneLine("  a\n\tb  ", 10), "a b");
  assert.equal(oneLine("x".repeat(1_000_000), 5), "xxxxx…");
});
