// All of a trace in a strip: where its spans are, which part the window shows.

import { useSignalEffect } from "@preact/signals";
import { useRef } from "preact/hooks";
import { clampZoom } from "../lib/timescale.ts";
import type { Line, TraceView } from "../lib/trace_view.ts";
import { family } from "../lib/types.ts";

const HEIGHT = 36;

export function Minimap({ view }: { view: TraceView }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const held = useRef<number | null>(null);

  useSignalEffect(() => {
    const element = canvas.current;
    const rows = view.rows.value;
    const lines = view.lines.value;
    const scale = view.scale.value;
    const length = view.length.value;
    if (!element) return;
    const width = element.clientWidth;
    const pixels = devicePixelRatio || 1;
    element.width = width * pixels;
    element.height = HEIGHT * pixels;
    const context = element.getContext("2d");
    if (!context) return;
    context.scale(pixels, pixels);
    const colours = new Map<string, string>();
    const step = HEIGHT / Math.max(rows.length, 12);
    rows.forEach((row, n) => {
      const line = row.line < 0 ? null : (lines[row.line] as Line);
      const kind =
        line === null ? "incomplete" : line.status === "ERROR" ? "error" : family(line.type);
      let colour = colours.get(kind);
      if (colour === undefined) {
        element.style.color = `var(--${kind})`;
        colour = getComputedStyle(element).color;
        colours.set(kind, colour);
      }
      context.fillStyle = colour;
      const x = scale.toPart(row.start) * width;
      const end = scale.toPart(row.end ?? length) * width;
      context.fillRect(x, n * step, Math.max(1, end - x), Math.max(1, step * 0.8));
    });
  });

  const partAt = (event: PointerEvent) => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    return (event.clientX - box.left) / box.width;
  };
  const moveTo = (part: number) => {
    const { from, to } = view.zoom.value;
    const half = (to - from) / 2;
    view.zoom.value = clampZoom(part - half, part + half);
  };
  return (
    <div
      class="minimap"
      aria-hidden="true"
      onPointerDown={(event) => {
        event.currentTarget.setPointerCapture(event.pointerId);
        held.current = partAt(event);
      }}
      onPointerMove={(event) => {
        if (held.current === null) return;
        const part = partAt(event);
        if (Math.abs(part - held.current) > 0.01) {
          view.zoom.value = clampZoom(Math.min(part, held.current), Math.max(part, held.current));
        }
      }}
      onPointerUp={(event) => {
        if (held.current !== null && Math.abs(partAt(event) - held.current) <= 0.01)
          moveTo(held.current);
        held.current = null;
      }}
    >
      <canvas ref={canvas} style={{ height: `${HEIGHT}px` }} />
      <i
        style={{
          left: `${view.zoom.value.from * 100}%`,
          width: `${(view.zoom.value.to - view.zoom.value.from) * 100}%`,
        }}
      />
    </div>
  );
}
