// Figures as people read them. Nanoseconds come as decimal text: they exceed what a number holds.

const MICROSECOND = 1_000n;
const MILLISECOND = 1_000_000n;
const SECOND = 1_000_000_000n;
const MINUTE = 60n * SECOND;
const HOUR = 60n * MINUTE;

/** 850ns, 12.3ms, 4.21s, 2m05s, 3h07m. */
export function duration(ns: bigint): string {
  if (ns < 0n) return `-${duration(-ns)}`;
  if (ns < MICROSECOND) return `${ns}ns`;
  if (ns < MILLISECOND) return `${threeDigits(ns, MICROSECOND)}µs`;
  if (ns < SECOND) return `${threeDigits(ns, MILLISECOND)}ms`;
  if (ns < MINUTE) return `${threeDigits(ns, SECOND)}s`;
  if (ns < HOUR) return `${ns / MINUTE}m${two((ns % MINUTE) / SECOND)}s`;
  return `${ns / HOUR}h${two((ns % HOUR) / MINUTE)}m`;
}

/** How long ago, in whole units: now, 12s, 5m, 3h, 2d. */
export function age(ms: number): string {
  const s = Math.floor(ms / 1000);
  if (s < 1) return "now";
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h`;
  return `${Math.floor(s / 86_400)}d`;
}

/** 950, 8.1k, 1.24M. */
export function count(n: number): string {
  if (n < 1000) return `${n}`;
  if (n < 999_500) return `${Number((n / 1e3).toPrecision(3))}k`;
  if (n < 999_500_000) return `${Number((n / 1e6).toPrecision(3))}M`;
  return `${Number((n / 1e9).toPrecision(3))}G`;
}

/** 1,204. */
export function whole(n: number): string {
  return n.toLocaleString("en-US");
}

/** $0.04, $0.0012, $12.30. */
export function cost(dollars: number): string {
  if (dollars === 0) return "$0";
  if (dollars >= 0.01) return `$${dollars.toFixed(2)}`;
  return `$${Number(dollars.toPrecision(2))}`;
}

/** 512 B, 64.0 KB, 5.2 MB. */
export function bytes(n: number): string {
  if (n < 1024) return `${n} B`;
  const units = ["KB", "MB", "GB", "TB"];
  let size = n;
  let unit = "";
  for (unit of units) {
    size /= 1024;
    if (size < 1024) break;
  }
  return `${size.toFixed(1)} ${unit}`;
}

/** A moment as a date and time, in UTC or where the reader is. */
export function moment(ms: number, utc: boolean): string {
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return "–";
  if (utc) return date.toISOString().replace("T", " ").replace("Z", " UTC");
  const local = new Date(ms - date.getTimezoneOffset() * 60_000);
  return local.toISOString().replace("T", " ").replace("Z", "");
}

/** Nanoseconds since 1970 as milliseconds. */
export function toMs(ns: string): number {
  return Number(BigInt(ns) / MICROSECOND) / 1000;
}

// What would move the text or draw over its neighbours, and what cannot be seen at all.
const UNSEEN =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/gu;

/** Text with its control and bidirectional characters made visible. */
export function visible(text: string): string {
  return text.replace(UNSEEN, (c) =>
    c <= "\u001f" ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : `⟨U+${hex(c)}⟩`,
  );
}

/** Visible text on one line, at most `max` characters of it. */
export function oneLine(text: string, max: number): string {
  const short = text.length > 4 * max ? text.slice(0, 4 * max) : text;
  const line = visible(short.replace(/\s+/gu, " ").trim());
  const characters = Array.from(line);
  return characters.length > max || short !== text ? `${characters.slice(0, max).join("")}…` : line;
}

function threeDigits(ns: bigint, unit: bigint): string {
  const value = Number((ns * 1000n) / unit) / 1000;
  if (value >= 100) return `${Math.floor(value)}`;
  return value >= 10
    ? (Math.floor(value * 10) / 10).toFixed(1)
    : (Math.floor(value * 100) / 100).toFixed(2);
}

function two(n: bigint): string {
  return `${n}`.padStart(2, "0");
}

function hex(c: string): string {
  return c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
}
