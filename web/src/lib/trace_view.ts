// One trace as a reader looks at it: its spans, which of them are folded, selected, in view.
// Live changes never move what the reader chose.

import { batch, computed, signal } from "@preact/signals";
import { now } from "./clock.ts";
import { ALL, type Interval, Timescale, type Zoom } from "./timescale.ts";
import { above, build, criticalPath, flatten, type Row, type SpanLine } from "./tree.ts";

export interface Line extends SpanLine {
  model: string | null;
  inputTokens: number | null;
  outputTokens: number | null;
  error: string | null;
  /** The store's number of this version. */
  change: number;
}

export class TraceView {
  readonly lines = signal<readonly Line[]>([]);
  /** When the trace began, in nanoseconds since 1970. */
  readonly startNs = signal(0n);
  readonly folded = signal<ReadonlySet<string>>(new Set());
  readonly selected = signal<string | null>(null);
  readonly zoom = signal<Zoom>(ALL);
  readonly idleCollapsed = signal(false);
  readonly pathShown = signal(false);
  readonly search = signal("");

  readonly roots = computed(() => build(this.lines.value));
  readonly rows = computed(() => flatten(this.roots.value, this.folded.value));
  /** Where each of `rows` stands. */
  readonly places = computed(() => new Map(this.rows.value.map((row, n) => [row.key, n])));
  /** All rows, folded away or not, in order. */
  private readonly all = computed(() => flatten(this.roots.value, new Set()));
  private readonly byKey = computed(() => new Map(this.all.value.map((row) => [row.key, row])));
  readonly byId = computed(() => new Map(this.lines.value.map((line, n) => [line.id, n])));
  readonly isOpen = computed(() => this.lines.value.some((line) => line.end === null));

  /** Nanoseconds from the start of the trace until now, for what is open. */
  readonly elapsed = computed(() =>
    this.isOpen.value ? Math.max(0, now.value * 1e6 - Number(this.startNs.value)) : 0,
  );

  /** Nanoseconds from the first start to the last end, or until now. */
  readonly length = computed(() => {
    let end = this.elapsed.value;
    for (const line of this.lines.value) end = Math.max(end, line.start, line.end ?? 0);
    return end;
  });

  readonly scale = computed(
    () => new Timescale(this.length.value, this.idleCollapsed.value ? this.busy.value : null),
  );

  readonly critical = computed(() =>
    this.pathShown.value
      ? criticalPath(this.roots.value, this.length.value)
      : new Map<string, [number, number][]>(),
  );

  readonly errors = computed(() => this.matching((line) => line.status === "ERROR"));
  readonly matches = computed(() => {
    const wanted = this.search.value.trim().toLowerCase();
    if (!wanted) return [];
    return this.matching((line) =>
      [line.name, line.id, line.type, line.model ?? "", line.error ?? ""].some((text) =>
        text.toLowerCase().includes(wanted),
      ),
    );
  });

  readonly matched = computed(() => new Set(this.matches.value));

  /** Leaves are what happened; their parents waited. */
  private readonly busy = computed<Interval[]>(() => {
    const parents = new Set(this.lines.value.map((line) => line.parentId));
    return this.lines.value
      .filter((line) => !parents.has(line.id))
      .map((line) => ({ start: line.start, end: line.end ?? this.length.value }));
  });

  /** Take spans as they are now: new ones, and newer versions of those that are here. */
  take(startNs: bigint, changed: readonly Line[]): void {
    if (changed.length === 0) return;
    const lines = [...this.lines.value];
    const places = new Map(this.byId.value);
    // Offsets are from the earliest start known; an earlier one moves all.
    const first =
      this.lines.value.length === 0 || startNs < this.startNs.value ? startNs : this.startNs.value;
    const moved = Number(this.startNs.value - first);
    if (lines.length > 0 && moved !== 0) {
      lines.forEach((line, n) => {
        lines[n] = {
          ...line,
          start: line.start + moved,
          end: line.end === null ? null : line.end + moved,
        };
      });
    }
    const offset = Number(startNs - first);
    for (const line of changed) {
      const placed = offset
        ? { ...line, start: line.start + offset, end: line.end === null ? null : line.end + offset }
        : line;
      const at = places.get(line.id);
      if (at === undefined) {
        places.set(line.id, lines.length);
        lines.push(placed);
      } else if (placed.change >= (lines[at] as Line).change) {
        lines[at] = placed;
      }
    }
    batch(() => {
      this.startNs.value = first;
      this.lines.value = lines;
    });
  }

  /** Select a span or a missing parent, opening what it is folded into. */
  select(key: string | null): void {
    batch(() => {
      this.selected.value = key;
      if (key !== null) this.unfold(key);
    });
  }

  /** Fold or open a row; without a choice, turn it. */
  fold(key: string, on?: boolean): void {
    const folded = new Set(this.folded.value);
    if (on ?? !folded.has(key)) folded.add(key);
    else folded.delete(key);
    this.folded.value = folded;
  }

  /** Fold all rows that have something below them, or open all. */
  foldAll(on: boolean): void {
    this.folded.value = new Set(
      on ? this.all.value.filter((row) => row.below > 0).map((row) => row.key) : [],
    );
  }

  /** Select the next of some spans in order of rows, going round at the end. */
  jump(keys: readonly string[], step: 1 | -1): void {
    if (keys.length === 0) return;
    const at = this.selected.value === null ? -1 : keys.indexOf(this.selected.value);
    const from = at < 0 && step < 0 ? 0 : at;
    this.select(keys[(from + step + keys.length) % keys.length] as string);
  }

  /** Show from the start to the end of a row, with a little room. */
  fit(row: Row): void {
    const from = this.scale.value.toPart(row.start);
    const to = this.scale.value.toPart(row.end ?? this.length.value);
    const room = Math.max((to - from) * 0.05, 1e-6);
    this.zoom.value = { from: Math.max(0, from - room), to: Math.min(1, to + room) };
  }

  /** The row with a key, folded away or not. */
  find(key: string): Row | null {
    return this.byKey.value.get(key) ?? null;
  }

  /** Where the selected row is shown, or the one that it is folded into; -1: nowhere. */
  placeOfSelected(): number {
    let row = this.selected.value === null ? null : this.find(this.selected.value);
    while (row && !this.places.value.has(row.key)) row = row.parent;
    return row ? (this.places.value.get(row.key) as number) : -1;
  }

  private unfold(key: string): void {
    const row = this.find(key);
    const closed = row ? above(row).filter((one) => this.folded.value.has(one)) : [];
    if (closed.length === 0) return;
    const folded = new Set(this.folded.value);
    for (const one of closed) folded.delete(one);
    this.folded.value = folded;
  }

  private matching(test: (line: Line) => boolean): string[] {
    return this.all.value
      .filter((row) => row.line >= 0 && test(this.lines.value[row.line] as Line))
      .map((row) => row.key);
  }
}
