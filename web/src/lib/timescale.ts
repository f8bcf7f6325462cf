// Where a moment of a trace stands on the screen: all of the trace from 0 to 1, idle stretches
// narrow where the reader asked for that, and a window onto a part of it.

export interface Interval {
  start: number;
  end: number;
}

/** What an idle stretch keeps of the width, when collapsed. */
const IDLE_KEEPS = 0.01;
/** An idle stretch shorter than this part of the trace stays as it is. */
const IDLE_MIN = 0.05;

export class Timescale {
  readonly length: number;
  /** Idle stretches that are collapsed. */
  readonly idle: readonly Interval[];
  private readonly points: [number, number][];

  /** `busy` is where anything happened, in any order; only needed to collapse what lies between. */
  constructor(length: number, busy: readonly Interval[] | null) {
    this.length = Math.max(1, length);
    this.idle = busy === null ? [] : idleBetween(busy, this.length);
    this.points = [[0, 0]];
    let shown = 0;
    let at = 0;
    for (const { start, end } of this.idle) {
      shown += start - at;
      this.points.push([start, shown]);
      shown += this.length * IDLE_KEEPS;
      this.points.push([end, shown]);
      at = end;
    }
    shown += this.length - at;
    this.points.push([this.length, shown]);
    for (const point of this.points) point[1] /= shown || 1;
  }

  /** Nanoseconds from the start to a part of the whole width. */
  toPart(ns: number): number {
    return between(this.points, ns, 0, 1);
  }

  /** The reverse of `toPart`. */
  toNs(part: number): number {
    return between(this.points, part, 1, 0);
  }
}

/** A window onto the whole: parts of the width, from 0 to 1. */
export interface Zoom {
  from: number;
  to: number;
}

export const ALL: Zoom = { from: 0, to: 1 };
const NARROWEST = 1e-9;

/** A window that lies within the whole, no narrower than can be drawn. */
export function clampZoom(from: number, to: number): Zoom {
  const width = Math.min(1, Math.max(NARROWEST, to - from));
  const left = Math.min(Math.max(0, from), 1 - width);
  return { from: left, to: left + width };
}

/** The window grown or shrunk around one of its points. */
export function zoomAt(zoom: Zoom, point: number, factor: number): Zoom {
  return clampZoom(point - (point - zoom.from) * factor, point + (zoom.to - point) * factor);
}

/** Round moments for a ruler, in nanoseconds: at most `count` of them within the window. */
export function ticks(scale: Timescale, zoom: Zoom, count: number): number[] {
  const from = scale.toNs(zoom.from);
  const to = scale.toNs(zoom.to);
  const rough = Math.max(1, (to - from) / count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? rough;
  const found: number[] = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

function idleBetween(busy: readonly Interval[], length: number): Interval[] {
  const found: Interval[] = [];
  let at = 0;
  for (const { start, end } of busy.toSorted((a, b) => a.start - b.start)) {
    if (start - at > length * IDLE_MIN) found.push({ start: at, end: start });
    at = Math.max(at, end);
  }
  return found;
}

function between(points: readonly [number, number][], value: number, x: 0 | 1, y: 0 | 1): number {
  let low = 0;
  let high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((points[middle] as [number, number])[x] <= value) low = middle;
    else high = middle;
  }
  const a = points[low] as [number, number];
  const b = points[high] as [number, number];
  if (b[x] === a[x]) return a[y];
  return a[y] + ((value - a[x]) / (b[x] - a[x])) * (b[y] - a[y]);
}
