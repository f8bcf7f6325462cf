// The traces that a view lists: pages as the reader scrolls, changes as they happen. What the
// reader looks at never moves: rows change in place, new ones wait until they are asked for.

import { batch, computed, signal } from "@preact/signals";
import type { Page, Trace } from "./api.ts";
import { get, path, RequestFailed } from "./http.ts";

export const PAGE = 100;

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
  private refresh: ReturnType<typeof setTimeout> | undefined;

  /** Show what matches, from the start. */
  async show(filters: Filters): Promise<void> {
    this.filters = filters;
    this.abort.abort();
    this.abort = new AbortController();
    this.waiting.value = [];
    await this.fetch(null, (page) => {
      this.rows.value = page.items;
      this.next.value = page.next;
    });
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

  /** Take a change of the live feed; `calm` means that new rows may appear by themselves. */
  take(trace: Trace, calm: boolean): void {
    const at = this.rows.value.findIndex((row) => keyOf(row) === keyOf(trace));
    if (at >= 0) {
      this.rows.value = this.rows.value.with(at, trace);
      return;
    }
    if (Object.keys(this.filters).length > 0) {
      // Only the server knows whether it matches.
      this.refresh ??= setTimeout(() => this.lookForNew(calm), 1000);
      return;
    }
    this.add([trace], calm);
  }

  /** Show the new ones. */
  reveal(): void {
    batch(() => {
      this.rows.value = [...this.waiting.value, ...this.rows.value];
      this.waiting.value = [];
    });
  }

  close(): void {
    listed = this.rows.value.map(keyOf);
    this.abort.abort();
    clearTimeout(this.refresh);
  }

  private add(traces: Trace[], calm: boolean): void {
    const keys = new Set(traces.map(keyOf));
    const waiting = [...traces, ...this.waiting.value.filter((row) => !keys.has(keyOf(row)))].sort(
      latestFirst,
    );
    // What began before the last row shown is further down.
    const last = this.rows.value.at(-1);
    const fits =
      last && this.next.value !== null
        ? waiting.filter((row) => latestFirst(row, last) < 0)
        : waiting;
    this.waiting.value = fits;
    if (calm) {
      batch(() => {
        this.reveal();
        this.rows.value = this.rows.value.toSorted(latestFirst);
      });
    }
  }

  private async lookForNew(calm: boolean): Promise<void> {
    this.refresh = undefined;
    const signal = this.abort.signal;
    try {
      const page = await get<Page<Trace>>(this.address(null), signal);
      const known = new Map(this.rows.value.map((row, n) => [keyOf(row), n]));
      this.add(
        page.items.filter((row) => !known.has(keyOf(row))),
        calm,
      );
    } catch {
      // The feed says that it is down; the next change looks again.
    }
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

function latestFirst(a: Trace, b: Trace): number {
  const [first, second] = [BigInt(a.start_ns), BigInt(b.start_ns)];
  if (first !== second) return first < second ? 1 : -1;
  return a.id < b.id ? 1 : -1;
}
