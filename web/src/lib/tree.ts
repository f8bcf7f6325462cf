// A trace as rows: spans under their parents in order of start, parents that are not stored in
// their place, what is missing at the end.

export interface SpanLine {
  id: string;
  /** The parent's id as the span names it; null at a root. */
  parentId: string | null;
  name: string;
  type: string;
  status: string;
  /** Nanoseconds from the start of the trace. */
  start: number;
  /** Nanoseconds from the start of the trace; null while the span is open. */
  end: number | null;
}

export interface Row {
  /** Unique in the trace, the same whenever the tree is built anew. */
  key: string;
  depth: number;
  /** Index among the lines; -1 for a parent that is not stored. */
  line: number;
  /** The missing parent's id, where `line` is -1. */
  missing: string | null;
  parent: Row | null;
  children: Row[];
  /** Its place among its siblings, from 1. */
  place: number;
  /** Spans below, at any depth. */
  below: number;
  /** One of the spans below has failed. */
  errorBelow: boolean;
  /** From the earliest start to the latest end of what is below, for a missing parent. */
  start: number;
  end: number | null;
}

/** Build the tree; parents that form a cycle are cut where the cycle was entered. */
export function build(lines: readonly SpanLine[]): Row[] {
  const rows = new Map<string, Row>();
  lines.forEach((line, n) => {
    rows.set(line.id, row(line.id, n, null, line.start, line.end));
  });
  const roots: Row[] = [];
  for (const line of lines) {
    const own = rows.get(line.id) as Row;
    if (line.parentId === null) {
      roots.push(own);
      continue;
    }
    let parent = rows.get(line.parentId);
    if (!parent) {
      parent = row(line.parentId, -1, line.parentId, line.start, line.end);
      rows.set(line.parentId, parent);
      roots.push(parent);
    }
    // Only what has children already can stand above its parent.
    if (own === parent || (own.children.length > 0 && leadsTo(parent, own))) roots.push(own);
    else {
      own.parent = parent;
      parent.children.push(own);
    }
  }
  for (const own of rows.values()) {
    own.children.sort(byStart);
    if (own.line < 0) spanChildren(own);
  }
  roots.sort(byStart);
  measure(roots, lines);
  return roots;
}

/** The rows to show, in order; those below a folded key are left out. */
export function flatten(roots: readonly Row[], folded: ReadonlySet<string>): Row[] {
  const shown: Row[] = [];
  const waiting = [...roots].reverse();
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    shown.push(next);
    if (folded.has(next.key)) continue;
    for (let n = next.children.length - 1; n >= 0; n -= 1) waiting.push(next.children[n] as Row);
  }
  return shown;
}

/** Keys of all rows above one, the nearest first. */
export function above(own: Row): string[] {
  const keys = [];
  for (let parent = own.parent; parent; parent = parent.parent) keys.push(parent.key);
  return keys;
}

/**
 * The stretches that made the trace as long as it is: from the root's end backwards, always the
 * child that ended last before the point reached, and the parent's own time between children.
 */
export function criticalPath(roots: readonly Row[], now: number): Map<string, [number, number][]> {
  const path = new Map<string, [number, number][]>();
  const root = roots.reduce<Row | null>(
    (latest, next) => (latest && endOf(latest, now) >= endOf(next, now) ? latest : next),
    null,
  );
  if (!root) return path;
  const waiting: [Row, number][] = [[root, endOf(root, now)]];
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    const [own, until] = next;
    let at = Math.min(until, endOf(own, now));
    const stretches: [number, number][] = [];
    const children = own.children.toSorted((a, b) => endOf(b, now) - endOf(a, now));
    for (const child of children) {
      const end = Math.min(endOf(child, now), at);
      const start = Math.max(child.start, own.start);
      // A child that ended after the point reached ran beside what is on the path.
      if (endOf(child, now) > at || start >= at || end <= own.start) continue;
      if (end < at) stretches.push([end, at]);
      waiting.push([child, end]);
      at = start;
    }
    if (at > own.start) stretches.push([own.start, at]);
    path.set(own.key, stretches.reverse());
  }
  return path;
}

function row(
  key: string,
  line: number,
  missing: string | null,
  start: number,
  end: number | null,
): Row {
  return {
    key,
    depth: 0,
    line,
    missing,
    parent: null,
    children: [],
    place: 1,
    below: 0,
    errorBelow: false,
    start,
    end,
  };
}

function leadsTo(from: Row, to: Row): boolean {
  for (let at: Row | null = from; at; at = at.parent) if (at === to) return true;
  return false;
}

function byStart(a: Row, b: Row): number {
  return a.start - b.start || (a.key < b.key ? -1 : 1);
}

function endOf(own: Row, now: number): number {
  return own.end ?? now;
}

/** A parent that is not stored covers what its children cover. */
function spanChildren(own: Row): void {
  for (const child of own.children) {
    own.start = Math.min(own.start, child.start);
    own.end = own.end === null || child.end === null ? null : Math.max(own.end, child.end);
  }
}

/** Set what a row knows of those below it: without recursion, as chains may be very deep. */
function measure(roots: readonly Row[], lines: readonly SpanLine[]): void {
  const order: Row[] = [];
  const waiting = [...roots];
  roots.forEach((root, n) => {
    root.place = n + 1;
  });
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    order.push(next);
    next.children.forEach((child, n) => {
      child.depth = next.depth + 1;
      child.place = n + 1;
      waiting.push(child);
    });
  }
  for (const own of order.reverse()) {
    const parent = own.parent;
    if (!parent) continue;
    parent.below += own.below + 1;
    parent.errorBelow ||= own.errorBelow || lines[own.line]?.status === "ERROR";
  }
}
