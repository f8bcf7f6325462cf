// A trace as one grid: the tree on the left, what took how long on the right. Only rows in view
// are mounted.

import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { duration, oneLine } from "../lib/format.ts";
import { offer } from "../lib/keys.ts";
import { ALL, clampZoom, ticks, type Zoom, zoomAt } from "../lib/timescale.ts";
import type { Line, TraceView } from "../lib/trace_view.ts";
import type { Row } from "../lib/tree.ts";
import { family, signOf } from "../lib/types.ts";
import { useWindow } from "../lib/windowed.ts";

const INDENT_PX = 14;
/** Deeper rows are indented no further: their names would have no room. */
const INDENT_LEVELS = 16;
const INDENT_LEVELS_PHONE = 5;
const RULER_MARKS = 6;
/** A mark further right has no words: they would be cut off. */
const LABEL_MAX = 0.83;
const PAN = 0.2;
const ZOOM_STEP = 0.7;

const phone = matchMedia("(max-width: 480px)");

export function Waterfall({ view }: { view: TraceView }) {
  const frame = useRef<HTMLDivElement>(null);
  const rowHeight = phone.matches ? 44 : 26;
  const rows = useWindow(
    frame,
    useComputed(() => view.rows.value.length),
    rowHeight,
  );
  const followed = useRef<string | null>(null);

  useEffect(
    () =>
      view.selected.subscribe((key) => {
        if (key === null || key === followed.current) return;
        followed.current = key;
        const at = view.placeOfSelected();
        if (at >= 0) rows.show(at);
      }),
    [view, rows],
  );

  useEffect(() => offer(shortcuts(view)), [view]);

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (view.selected.value !== null) view.fold(view.selected.value);
    }
  };

  const selectedAt = useComputed(() => view.placeOfSelected());
  return (
    <div class="waterfall">
      <Ruler view={view} />
      <div
        class="grid"
        ref={frame}
        role="treegrid"
        aria-label="Spans"
        aria-rowcount={view.rows.value.length}
        aria-activedescendant={selectedAt.value >= 0 ? `row-${selectedAt.value}` : undefined}
        tabIndex={0}
        onKeyDown={onKeyDown}
        onWheel={(event) => onWheel(event, view)}
      >
        <div style={{ height: `${rows.height.value}px` }} role="rowgroup">
          {rows.items.value.map(({ index, start }) => {
            const row = view.rows.value[index];
            return (
              row && (
                <GridRow
                  key={row.key}
                  view={view}
                  row={row}
                  index={index}
                  top={start}
                  height={rowHeight}
                />
              )
            );
          })}
        </div>
      </div>
    </div>
  );
}

function GridRow({
  view,
  row,
  index,
  top,
  height,
}: {
  view: TraceView;
  row: Row;
  index: number;
  top: number;
  height: number;
}) {
  const line = row.line < 0 ? null : (view.lines.value[row.line] as Line);
  const isFolded = view.folded.value.has(row.key);
  const levels = phone.matches ? INDENT_LEVELS_PHONE : INDENT_LEVELS;
  const selected = view.selected.value === row.key;
  const siblings = row.parent?.children ?? view.roots.value;
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: the grid has the focus and hears the keys
    <div
      id={`row-${index}`}
      class={`row${line === null ? " missing" : ""}${selected ? " selected" : ""}${view.matched.value.has(row.key) ? " match" : ""}`}
      role="row"
      aria-level={row.depth + 1}
      aria-posinset={row.place}
      aria-setsize={siblings.length}
      aria-rowindex={index + 1}
      aria-selected={selected}
      aria-expanded={row.children.length > 0 ? !isFolded : undefined}
      data-key={row.key}
      style={{ transform: `translateY(${top}px)`, height: `${height}px` }}
      onClick={() => view.select(row.key)}
      onDblClick={() => view.fit(row)}
    >
      <div
        class="cell name"
        role="gridcell"
        style={{ paddingLeft: `${4 + Math.min(row.depth, levels) * INDENT_PX}px` }}
      >
        {row.depth > levels && <span class="faint depth">{row.depth}</span>}
        {row.children.length > 0 ? (
          <button
            type="button"
            class="fold"
            tabIndex={-1}
            aria-label={isFolded ? "open" : "fold"}
            onClick={(event) => {
              event.stopPropagation();
              view.fold(row.key);
            }}
          >
            {isFolded ? "▸" : "▾"}
          </button>
        ) : (
          <span class="fold" />
        )}
        {line === null ? <MissingName row={row} /> : <Name line={line} />}
        {isFolded && (
          <span class={row.errorBelow ? "error below" : "faint below"}>+{row.below}</span>
        )}
      </div>
      <div class="cell bars" role="gridcell">
        <Bar view={view} row={row} line={line} />
      </div>
    </div>
  );
}

function Name({ line }: { line: Line }) {
  const failed = line.status === "ERROR";
  return (
    <>
      <span class={failed ? "error" : `type-${family(line.type)}`} title={line.type}>
        <span aria-hidden="true">
          {failed ? "⚠" : line.status === "CANCELED" ? "⊘" : signOf(line.type)}
        </span>
        <span class="unseen">
          {failed ? "failed " : line.status === "CANCELED" ? "canceled " : ""}
        </span>
      </span>
      <span class={failed ? "text error" : "text"}>{oneLine(line.name, 200)}</span>
      {line.end === null && <span class="state-running pulse">open</span>}
    </>
  );
}

function MissingName({ row }: { row: Row }) {
  return (
    <span class="text incomplete">
      <span aria-hidden="true">▨</span> parent{" "}
      <span class="mono">{oneLine(row.missing ?? "", 40)}</span> not stored
    </span>
  );
}

function Bar({ view, row, line }: { view: TraceView; row: Row; line: Line | null }) {
  const scale = view.scale.value;
  const zoom = view.zoom.value;
  const end = row.end ?? Math.max(row.start, view.length.value);
  const from = place(scale.toPart(row.start), zoom);
  const to = place(scale.toPart(end), zoom);
  const kind =
    line === null ? "missing" : line.status === "ERROR" ? "error" : `type-${family(line.type)}`;
  const left = Math.max(0, from);
  const right = Math.min(1, to);
  const label = duration(BigInt(Math.round(end - row.start)));
  if (right < 0 || left > 1) return <span class="off">{right < 0 ? "‹" : "›"}</span>;
  const open = row.end === null;
  // No room on either side.
  const inside = right > 0.85 && left < 0.15;
  return (
    <>
      <span
        class={`bar ${kind}${open ? " open" : ""}`}
        style={{ left: `${left * 100}%`, width: `max(2px, ${Math.max(0, right - left) * 100}%)` }}
      />
      {(view.critical.value.get(row.key) ?? []).map(([a, b], n) => {
        const x = Math.max(0, place(scale.toPart(a), zoom));
        const y = Math.min(1, place(scale.toPart(b), zoom));
        return (
          y > x && (
            <span
              key={n}
              class="critical"
              style={{ left: `${x * 100}%`, width: `${(y - x) * 100}%` }}
            />
          )
        );
      })}
      <span
        class={inside ? "lasted inside" : "lasted"}
        style={
          inside
            ? { right: `${(1 - right) * 100}%` }
            : right > 0.85
              ? { right: `${(1 - left) * 100}%` }
              : { left: `${right * 100}%` }
        }
      >
        {label}
        {open && "…"}
      </span>
    </>
  );
}

/** Moments above the bars; dragging over them chooses a window. */
function Ruler({ view }: { view: TraceView }) {
  const drag = useSignal<{ from: number; to: number } | null>(null);
  const own = useRef<HTMLDivElement>(null);
  const partAt = (event: PointerEvent) => {
    const box = (own.current as HTMLElement).getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  const scale = view.scale.value;
  const zoom = view.zoom.value;
  const within = (part: number) => zoom.from + part * (zoom.to - zoom.from);
  return (
    <div class="ruler-line">
      <div class="ruler-name faint">
        {view.zoom.value !== ALL && (
          <button
            type="button"
            class="plain"
            onClick={() => {
              view.zoom.value = ALL;
            }}
          >
            all
          </button>
        )}
      </div>
      <div
        class="ruler"
        ref={own}
        aria-hidden="true"
        onPointerDown={(event) => {
          event.currentTarget.setPointerCapture(event.pointerId);
          const part = partAt(event);
          drag.value = { from: part, to: part };
        }}
        onPointerMove={(event) => {
          if (drag.value) drag.value = { ...drag.value, to: partAt(event) };
        }}
        onPointerUp={() => {
          const chosen = drag.value;
          drag.value = null;
          if (!chosen || Math.abs(chosen.to - chosen.from) < 0.005) return;
          const [a, b] = [chosen.from, chosen.to].sort((x, y) => x - y) as [number, number];
          view.zoom.value = clampZoom(within(a), within(b));
        }}
      >
        {ticks(scale, zoom, RULER_MARKS).map((ns) => {
          const at = place(scale.toPart(ns), zoom);
          return (
            <span key={ns} style={{ left: `${at * 100}%` }}>
              {at <= LABEL_MAX && duration(BigInt(Math.round(ns)))}
            </span>
          );
        })}
        {drag.value && (
          <i
            style={{
              left: `${Math.min(drag.value.from, drag.value.to) * 100}%`,
              width: `${Math.abs(drag.value.to - drag.value.from) * 100}%`,
            }}
          />
        )}
      </div>
    </div>
  );
}

/** A part of the whole as a part of the window; outside it, below 0 or above 1. */
function place(part: number, zoom: Zoom): number {
  return (part - zoom.from) / (zoom.to - zoom.from);
}

function onWheel(event: WheelEvent, view: TraceView): void {
  if (!event.ctrlKey && !event.shiftKey) return;
  event.preventDefault();
  const zoom = view.zoom.value;
  const moved = event.deltaY || event.deltaX;
  if (event.shiftKey) {
    const by = Math.sign(moved) * PAN * 0.5 * (zoom.to - zoom.from);
    view.zoom.value = clampZoom(zoom.from + by, zoom.to + by);
    return;
  }
  const bars = (event.currentTarget as HTMLElement).querySelector(".bars")?.getBoundingClientRect();
  const part = bars ? Math.min(1, Math.max(0, (event.clientX - bars.left) / bars.width)) : 0.5;
  const point = zoom.from + part * (zoom.to - zoom.from);
  view.zoom.value = zoomAt(zoom, point, Math.exp(Math.sign(moved) * 0.25));
}

function shortcuts(view: TraceView) {
  const move = (to: (at: number, last: number) => number) => () => {
    const rows = view.rows.value;
    const at = view.placeOfSelected();
    const next = rows[Math.max(0, Math.min(to(at, rows.length - 1), rows.length - 1))];
    if (next) view.select(next.key);
  };
  const chosen = () => (view.selected.value === null ? null : view.find(view.selected.value));
  const pan = (by: number) => () => {
    const { from, to } = view.zoom.value;
    view.zoom.value = clampZoom(from + by * (to - from), to + by * (to - from));
  };
  const zoomBy = (factor: number) => () => {
    const { from, to } = view.zoom.value;
    view.zoom.value = zoomAt(view.zoom.value, (from + to) / 2, factor);
  };
  return [
    { keys: "ArrowDown", does: "next span", run: move((at) => at + 1) },
    { keys: "ArrowUp", does: "previous span", run: move((at) => at - 1) },
    { keys: "Home", does: "first span", run: move(() => 0) },
    { keys: "End", does: "last span", run: move((_, last) => last) },
    {
      keys: "ArrowLeft",
      does: "fold, or go to the parent",
      run: () => {
        const row = chosen();
        if (!row) return;
        if (row.children.length > 0 && !view.folded.value.has(row.key)) view.fold(row.key, true);
        else if (row.parent) view.select(row.parent.key);
      },
    },
    {
      keys: "ArrowRight",
      does: "open, or go to the first child",
      run: () => {
        const row = chosen();
        if (!row || row.children.length === 0) return;
        if (view.folded.value.has(row.key)) view.fold(row.key, false);
        else view.select((row.children[0] as Row).key);
      },
    },
    { keys: "[", does: "fold all", run: () => view.foldAll(true) },
    { keys: "]", does: "open all", run: () => view.foldAll(false) },
    { keys: "e", does: "next error", run: () => view.jump(view.errors.value, 1) },
    { keys: "E", does: "previous error", run: () => view.jump(view.errors.value, -1) },
    { keys: "n", does: "next match", run: () => view.jump(view.matches.value, 1) },
    { keys: "N", does: "previous match", run: () => view.jump(view.matches.value, -1) },
    { keys: "w", does: "zoom in", run: zoomBy(ZOOM_STEP) },
    { keys: "s", does: "zoom out", run: zoomBy(1 / ZOOM_STEP) },
    { keys: "a", does: "pan left", run: pan(-PAN) },
    { keys: "d", does: "pan right", run: pan(PAN) },
    {
      keys: "f",
      does: "fit the selected span",
      run: () => {
        const row = chosen();
        if (row) view.fit(row);
      },
    },
    { keys: "0", does: "show all of the time", run: () => (view.zoom.value = ALL) },
    {
      keys: "c",
      does: "show or hide the critical path",
      run: () => (view.pathShown.value = !view.pathShown.value),
    },
  ];
}
