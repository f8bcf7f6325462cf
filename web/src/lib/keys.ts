// The keyboard: one map of what each page offers, shown by `?`, deaf while the reader types.

import { signal } from "@preact/signals";

export interface Shortcut {
  /** `j`, `ArrowDown`, `g t` for two strokes one after the other. */
  keys: string;
  does: string;
  run(event: KeyboardEvent): void;
}

/** The reader wants shortcuts. */
export const enabled = signal(localStorage.getItem("keys") !== "off");

const STROKES_WITHIN_MS = 1000;
const offered: Shortcut[][] = [];
let first: { key: string; at: number } | null = null;

/** Offer shortcuts until the function returned is called; the latest offer of a key wins. */
export function offer(shortcuts: Shortcut[]): () => void {
  offered.push(shortcuts);
  return () => {
    offered.splice(offered.indexOf(shortcuts), 1);
  };
}

/** All that works now, for the help. */
export function all(): Shortcut[] {
  const seen = new Set<string>();
  return offered
    .flat()
    .reverse()
    .filter(({ keys }) => !seen.has(keys) && seen.add(keys))
    .reverse();
}

/** Turn shortcuts on or off for good. */
export function enable(on: boolean): void {
  enabled.value = on;
  localStorage.setItem("keys", on ? "on" : "off");
}

/** Hear the keyboard; call once. */
export function listenToKeys(): void {
  addEventListener("keydown", (event) => {
    if (!enabled.value || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isTyping(event.target) && event.key !== "Escape") return;
    const before = first && event.timeStamp - first.at < STROKES_WITHIN_MS ? first.key : null;
    first = null;
    const shortcut = (before && find(`${before} ${event.key}`)) || find(event.key);
    if (shortcut) {
      event.preventDefault();
      shortcut.run(event);
    } else if (all().some(({ keys }) => keys.startsWith(`${event.key} `))) {
      first = { key: event.key, at: event.timeStamp };
    }
  });
}

function find(keys: string): Shortcut | undefined {
  return offered.flat().findLast((shortcut) => shortcut.keys === keys);
}

function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName))
  );
}
