// Where the reader is: the path, and the view's state in the query string, so that every view has
// an address, and reload and back restore it.

import { computed, signal } from "@preact/signals";

const address = signal(location.href);

/** The parsed address. */
export const here = computed(() => new URL(address.value));

/** Go to another view; `replace` keeps the history as it is, for changes of little weight. */
export function go(to: string, how: "push" | "replace" = "push"): void {
  const url = new URL(to, location.href);
  if (url.href === location.href) return;
  if (how === "push") history.pushState(null, "", url);
  else history.replaceState(null, "", url);
  address.value = url.href;
}

/** Set or, with null or "", remove parameters of this view. */
export function setQuery(
  changes: Record<string, string | null>,
  how: "push" | "replace" = "push",
): void {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  go(url.href, how);
}

/** The value of a parameter of this view, "" where it has none. */
export function query(name: string): string {
  return here.value.searchParams.get(name) ?? "";
}

/** What follows `prefix` in the path, decoded; null where the path is another. */
export function pathAfter(prefix: string): string | null {
  const path = here.value.pathname;
  if (!path.startsWith(prefix) || path.length === prefix.length) return null;
  try {
    return decodeURIComponent(path.slice(prefix.length));
  } catch {
    return null;
  }
}

/** Follow links to our own pages without a reload; call once. */
export function followLinks(): void {
  addEventListener("popstate", () => {
    address.value = location.href;
  });
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = (event.target as Element).closest?.("a");
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) {
      return;
    }
    if (link.pathname.startsWith("/api/")) return;
    event.preventDefault();
    go(link.href);
    scrollTo(0, 0);
  });
}
