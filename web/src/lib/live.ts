// The live feed: server-sent events, resumed by number after a break. A hidden tab closes it, since
// a browser opens six connections a host and no more.

import { signal } from "@preact/signals";
import { path } from "./http.ts";

/** Since when the feed is down, in milliseconds since 1970; null while it is up or paused. */
export const downSince = signal<number | null>(null);
/** The reader wants no changes now. */
export const paused = signal(false);

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

export interface Feed {
  close(): void;
}

/**
 * Hear of changes after number `after`, or from now on, none twice and none missed, until closed.
 *
 * The browser's own reconnection gives up on some errors and forgets its number where the page made
 * the connection anew; so each break leads to a new connection from the last number. `onFresh` runs
 * where the feed begins at a moment of the server's choosing: what is shown may be older.
 */
export function listen(
  parameters: { trace?: string },
  after: string | null,
  onChange: (data: unknown) => void,
  onFresh: () => void = () => {},
): Feed {
  let source: EventSource | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let last = after;
  let wait = FIRST_WAIT_MS;
  let closed = false;

  const wanted = () => !closed && !document.hidden && !paused.value;

  const disconnect = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };

  const connect = () => {
    if (source || !wanted()) return;
    const opened = new EventSource(path("/api/events", { ...parameters, after: last }));
    source = opened;
    opened.onopen = () => {
      wait = FIRST_WAIT_MS;
      downSince.value = null;
    };
    opened.addEventListener("open", (event) => {
      if (!(event instanceof MessageEvent)) return;
      const isFresh = last === null || (JSON.parse(event.data) as { is_lost: boolean }).is_lost;
      last = event.lastEventId || last;
      if (isFresh) onFresh();
    });
    for (const kind of ["traces", "trace"]) {
      opened.addEventListener(kind, (event: MessageEvent<string>) => {
        last = event.lastEventId || last;
        onChange(JSON.parse(event.data));
      });
    }
    opened.onerror = () => {
      disconnect();
      downSince.value ??= Date.now();
      timer = setTimeout(connect, wait * (0.75 + Math.random() / 2));
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    };
  };

  const changed = () => {
    if (wanted()) connect();
    else {
      disconnect();
      downSince.value = null;
    }
  };
  document.addEventListener("visibilitychange", changed);
  const unsubscribe = paused.subscribe(changed);

  return {
    close() {
      closed = true;
      disconnect();
      document.removeEventListener("visibilitychange", changed);
      unsubscribe();
    },
  };
}
