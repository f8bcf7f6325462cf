// What a reader chose for good: kept in this browser.

import { effect, signal } from "@preact/signals";

export type Theme = "auto" | "light" | "dark";

export const theme = signal<Theme>(read("theme", ["auto", "light", "dark"]));
/** Show times in UTC instead of where the reader is. */
export const utc = signal(read("time", ["local", "utc"]) === "utc");
/** Show text with markdown as formatted. */
export const formatted = signal(read("text", ["plain", "formatted"]) === "formatted");

/** Apply and keep what is chosen; call once. */
export function keepSettings(): void {
  effect(() => {
    const root = document.documentElement;
    if (theme.value === "auto") delete root.dataset["theme"];
    else root.dataset["theme"] = theme.value;
    localStorage.setItem("theme", theme.value);
  });
  effect(() => localStorage.setItem("time", utc.value ? "utc" : "local"));
  effect(() => localStorage.setItem("text", formatted.value ? "formatted" : "plain"));
}

function read<T extends string>(name: string, allowed: readonly [T, ...T[]]): T {
  const kept = localStorage.getItem(name) as T | null;
  return kept !== null && allowed.includes(kept) ? kept : allowed[0];
}
