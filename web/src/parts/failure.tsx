// What a view shows when an answer is late or does not come.

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { RequestFailed } from "../lib/http.ts";

const SKELETON_AFTER_MS = 150;

/** Why an answer is not there, and a way to ask again. */
export function Failure({ error, retry }: { error: RequestFailed; retry: () => void }) {
  return (
    <div class="banner" role="alert">
      <span>
        {error.message}
        {error.requestId !== null && <span class="faint"> (request {error.requestId})</span>}
      </span>
      <button type="button" onClick={retry}>
        Retry
      </button>
    </div>
  );
}

/** Grey lines, but only for what takes long enough to be noticed. */
export function Skeleton({ lines = 6 }: { lines?: number }) {
  const shown = useSignal(false);
  useEffect(() => {
    const timer = setTimeout(() => {
      shown.value = true;
    }, SKELETON_AFTER_MS);
    return () => clearTimeout(timer);
  }, [shown]);
  if (!shown.value) return null;
  return (
    <div role="status" aria-label="Loading">
      {Array.from({ length: lines }, (_, n) => (
        <div key={n} class="skeleton" />
      ))}
    </div>
  );
}
