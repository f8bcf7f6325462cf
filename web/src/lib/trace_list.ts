// The traces that a view lists: pages as the reader scrolls, changes as they happen. What the
// reader looks at never moves: rows change in place, new ones wait until they are asked for.

import { batch, computed, signal } from "@preact/signals";
import type { Page, Trace } from "./api.ts";
import { get, path, RequestFailed } from "./http.ts";

export const PAGE = 100;
const LOOK_AGAIN_MS = 1000;

export type Filters = Record<string, string | string[]>;

export class TraceList {
  readonly rows = signal<Trace[]>([]);
  readonly failed = signal<RequestFailed | null>(null);
  readonly loading = signal(true);
  /** New traces that are not shown yet, the latest first. */
  readonly waiting = signal<Trace[]>([]);
  readonly complete = computed(() => this.next.value === null && !this.loading.value);
  private readonly next = signal<string | null>(null);
  private abort = new AbortController();
  private filters: Filters = {};
  private shown: Promise<void> = Promise.resolve();
  private refresh: ReturnType<typeof setTimeout> | undefined;

  /** Show what matches, from the start. */
  async show(filters: Filters): Promise<void> {
    this.filters = filters;
    this.abort.abort();
    this.abort = new AbortController();
    this.waiting.value = [];
    this.shown = this.fetch(null, (page) => {
      // The feed may have told of changes while the page was on its way.
      const heard = new Map([...this.rows.value, ...this.waiting.value].map((t) => [keyOf(t), t]));
      const shown = new Set(page.items.map(keyOf));
      this.rows.value = page.items.map((trace) => later(trace, heard.get(keyOf(trace))));
      this.next.value = page.next;
      this.waiting.value = this.waiting.value.filter((trace) => !shown.has(keyOf(trace)));
    });
    await this.shown;
  }

  /** Load the next page, if there is one and none is on its way. */
  async more(): Promise<void> {
    const next = this.next.value;
    if (next === null || this.loading.value) return;
    await this.fetch(next, (page) => {
      const known = new Set(this.rows.value.map(keyOf));
      this.rows.value = [...this.rows.value, ...page.items.filter((row) => !known.has(keyOf(row)))];
      this.next.value = page.next;
    });
  }

  /** Ask again for what failed. */
  async again(): Promise<void> {
    if (this.rows.value.length > 0 && this.next.value !== null) await this.more();
    else await this.show(this.filters);
  }

  /** Take a change of the live feed; `calm` tells whether new rows may appear by themselves. */
  take(trace: Trace, calm: () => boolean): void {
    if (this.update(trace)) return;
    if (Object.keys(this.filters).length > 0) {
      // Only the server knows whether it matches.
      this.refresh ??= setTimeout(() => void this.renew(calm), LOOK_AGAIN_MS);
      return;
    }
    this.add([trace], calm());
  }

  /** Look for what changed unheard: rows change in place, new ones are added. */
  async renew(calm: () => boolean): Promise<void> {
    clearTimeout(this.refresh);
    this.refresh = undefined;
    const signal = this.abort.signal;
    await this.shown;
    try {
      const page = await get<Page<Trace>>(this.address(null), signal);
      if (signal.aborted) return;
      const unknown = page.items.filter((trace) => !this.update(trace));
      if (unknown.length > 0) this.add(unknown, calm());
    } catch {
      // The feed says that it is down; the next change looks again.
    }
  }

  /** Show the new ones. */
  reveal(): void {
    if (this.isSorted) {
      // Only the server knows where they belong.
      void this.show(this.filters);
      return;
    }
    batch(() => {
      this.rows.value = [...this.waiting.value, ...this.rows.value].sort(latestFirst);
      this.waiting.value = [];
    });
  }

  close(): void {
    listed = this.rows.value.map(keyOf);
    this.abort.abort();
    clearTimeout(this.refresh);
  }

  /** Change the row of a trace, unless it shows something newer; false: it has none. */
  private update(trace: Trace): boolean {
    const rows = this.rows.value;
    const at = rows.findIndex((row) => keyOf(row) === keyOf(trace));
    const row = rows[at];
    if (!row) return false;
    this.rows.value = rows.with(at, later(trace, row));
    return true;
  }

  private get isSorted(): boolean {
    return "sort" in this.filters;
  }

  private add(traces: Trace[], calm: boolean): void {
    const keys = new Set(traces.map(keyOf));
    const waiting = [...traces, ...this.waiting.value.filter((row) => !keys.has(keyOf(row)))].sort(
      latestFirst,
    );
    // What began before the last row shown is further down.
    const last = this.rows.value.at(-1);
    const fits =
      last && this.next.value !== null && !this.isSorted
        ? waiting.filter((row) => latestFirst(row, last) < 0)
        : waiting;
    this.waiting.value = fits;
    if (calm && fits.length > 0) this.reveal();
  }

  private async fetch(after: string | null, use: (page: Page<Trace>) => void): Promise<void> {
    const signal = this.abort.signal;
    this.loading.value = true;
    try {
      const page = await get<Page<Trace>>(this.address(after), signal);
      if (signal.aborted) return;
      batch(() => {
        use(page);
        this.failed.value = null;
        this.loading.value = false;
      });
    } catch (error) {
      if (signal.aborted) return;
      batch(() => {
        this.failed.value =
          error instanceof RequestFailed ? error : new RequestFailed(0, String(error), null);
        this.loading.value = false;
      });
    }
  }

  private address(after: string | null): string {
    return path("/api/traces", { ...this.filters, limit: PAGE, after });
  }
}

/** The trace after (1) or before (-1) one in the list shown last; null where there is none. */
export function neighbour(id: string, step: 1 | -1): string | null {
  const at = listed.indexOf(id);
  return at < 0 ? null : (listed[at + step] ?? null);
}

/** Ids in the order of the list shown last. */
let listed: string[] = [];

function keyOf(trace: Trace): string {
  return trace.id;
}

/** Of two states of a trace the one that was stored last. */
function later(trace: Trace, other: Trace | undefined): Trace {
  return other && BigInt(other.change) > BigInt(trace.change) ? other : trace;
}

function latestFirst(a: Trace, b: Trace): number {
  const [first, second] = [BigInt(a.start_ns), BigInt(b.start_ns)];
  if (first !== second) return first < second ? 1 : -1;
  return a.id < b.id ? 1 : -1;
}
