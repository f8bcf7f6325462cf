// A question to the server whose answer a view shows: old data stays while new is fetched or fails.

import { type Signal, useSignal, useSignalEffect } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { get, type RequestFailed } from "./http.ts";

const LATER_MS = 2000;

export interface Answer<T> {
  data: Signal<T | null>;
  failed: Signal<RequestFailed | null>;
  /** Ask again. */
  again(): void;
  /** Ask again soon, once for many calls. */
  later(): void;
}

/**
 * Ask for `address()`, and again whenever what it reads changes; null asks nothing.
 *
 * An answer that was overtaken by a later question is dropped.
 */
export function useAnswer<T>(address: () => string | null): Answer<T> {
  const data = useSignal<T | null>(null);
  const failed = useSignal<RequestFailed | null>(null);
  const round = useSignal(0);
  useSignalEffect(() => {
    round.value;
    const asked = address();
    if (asked === null) {
      data.value = null;
      return;
    }
    const abort = new AbortController();
    get<T>(asked, abort.signal).then(
      (answer) => {
        data.value = answer;
        failed.value = null;
      },
      (error) => {
        if (!abort.signal.aborted) failed.value = error as RequestFailed;
      },
    );
    return () => abort.abort();
  });
  return useMemo(() => {
    let waiting: ReturnType<typeof setTimeout> | undefined;
    const again = () => {
      waiting = undefined;
      round.value += 1;
    };
    const later = () => {
      if (waiting === undefined) waiting = setTimeout(again, LATER_MS);
    };
    return { data, failed, again, later };
  }, [data, failed, round]);
}
