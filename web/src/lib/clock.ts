// The time, for ages and for bars that grow; still while the tab is hidden.

import { signal } from "@preact/signals";

/** Milliseconds since 1970, renewed every second. */
export const now = signal(Date.now());

setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 1000);
