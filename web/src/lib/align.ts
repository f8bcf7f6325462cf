// Two traces side by side: spans that play the same part stand in one row.

import type { Line } from "./trace_view.ts";
import { build, type Row } from "./tree.ts";

export interface Pair {
  depth: number;
  name: string;
  a: Line | null;
  b: Line | null;
}

/** Deeper rows are left out: nobody would read a comparison of them. */
const DEPTH_MAX = 200;

/**
 * Rows of both traces in order: children of paired rows are paired by name, repeats of a name in
 * their order; what one trace alone has stands where it happened.
 */
export function align(a: readonly Line[], b: readonly Line[]): Pair[] {
  const pairs: Pair[] = [];
  const walk = (rowsA: readonly Row[], rowsB: readonly Row[], depth: number) => {
    for (const [rowA, rowB] of match(rowsA, rowsB, a, b)) {
      const lineA = (rowA && a[rowA.line]) ?? null;
      const lineB = (rowB && b[rowB.line]) ?? null;
      const name = lineA?.name ?? lineB?.name ?? rowA?.missing ?? rowB?.missing ?? "";
      pairs.push({ depth, name, a: lineA, b: lineB });
      if (depth < DEPTH_MAX) walk(rowA?.children ?? [], rowB?.children ?? [], depth + 1);
    }
  };
  walk(build(a), build(b), 0);
  return pairs;
}

function match(
  rowsA: readonly Row[],
  rowsB: readonly Row[],
  a: readonly Line[],
  b: readonly Line[],
): [Row | null, Row | null][] {
  const namesA = numbered(rowsA, a);
  const namesB = numbered(rowsB, b);
  const ofA = new Set(namesA);
  const placesB = new Map(namesB.map((name, n) => [name, n]));
  const found: [Row | null, Row | null][] = [];
  let next = 0;
  const takeUntil = (end: number) => {
    for (; next < end; next += 1) {
      if (!ofA.has(namesB[next] as string)) found.push([null, rowsB[next] as Row]);
    }
  };
  rowsA.forEach((row, n) => {
    const at = placesB.get(namesA[n] as string);
    if (at !== undefined) takeUntil(at);
    found.push([row, at === undefined ? null : (rowsB[at] as Row)]);
  });
  takeUntil(rowsB.length);
  return found;
}

/** Names, told apart by how often each occurred before. */
function numbered(rows: readonly Row[], lines: readonly Line[]): string[] {
  const counts = new Map<string, number>();
  return rows.map((row) => {
    const name = lines[row.line]?.name ?? "";
    const n = (counts.get(name) ?? 0) + 1;
    counts.set(name, n);
    return `${n} ${name}`;
  });
}
