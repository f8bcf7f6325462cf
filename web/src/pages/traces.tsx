// The list of traces: what happened lately, what failed, what is missing.

import { computed, effect, useComputed, useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import {
  type Figures,
  isIncomplete,
  type Series,
  STATES,
  type Trace,
  tokensOf,
} from "../lib/api.ts";
import { useAnswer } from "../lib/ask.ts";
import { now } from "../lib/clock.ts";
import { age, cost, count, duration, moment, oneLine, toMs, whole } from "../lib/format.ts";
import { path, segment } from "../lib/http.ts";
import { offer } from "../lib/keys.ts";
import { listen } from "../lib/live.ts";
import { go, here, query, setQuery } from "../lib/router.ts";
import { utc } from "../lib/settings.ts";
import { type Filters, TraceList } from "../lib/trace_list.ts";
import { family, signOf } from "../lib/types.ts";
import { useWindow } from "../lib/windowed.ts";
import { Badge } from "../parts/badge.tsx";
import { Empty } from "../parts/empty.tsx";
import { Failure, Skeleton } from "../parts/failure.tsx";
import { TimeChart } from "../parts/time_chart.tsx";
import { Views } from "../parts/views.tsx";

const RANGES = [
  ["15m", 15 * 60_000],
  ["1h", 3_600_000],
  ["24h", 86_400_000],
  ["7d", 7 * 86_400_000],
] as const;
const FILTERS = ["text", "has_error", "type", "model", "agent", "name", "session", "sort"] as const;
const BUCKETS = 60;
const phone = matchMedia("(max-width: 480px)");

/** What the address asks for, as the API's parameters. */
const asked = computed<Filters>(() => {
  const filters: Filters = {};
  for (const name of FILTERS) if (query(name)) filters[name] = query(name);
  if (query("state")) filters["state"] = query("state").split(",");
  const since = RANGES.find(([name]) => name === query("range"))?.[1];
  if (since !== undefined) filters["from"] = new Date(Date.now() - since).toISOString();
  if (query("from")) filters["from"] = query("from");
  if (query("to")) filters["to"] = query("to");
  return filters;
});

export function Traces() {
  const list = useMemo(() => new TraceList(), []);
  const frame = useRef<HTMLDivElement>(null);
  const at = useSignal(-1);
  const marked = useSignal<readonly string[]>([]);
  const pointerInside = useSignal(false);
  const rowHeight = phone.matches ? 68 : 40;
  const rows = useWindow(
    frame,
    useComputed(() => list.rows.value.length),
    rowHeight,
  );
  const series = useAnswer<Series>(() => {
    const { sort: _, ...filters } = asked.value;
    return path("/api/series", { ...filters, buckets: BUCKETS });
  });

  useEffect(() => {
    document.title = "Traces – everyspan";
    const stop = effect(() => void list.show(asked.value));
    return () => {
      stop();
      list.close();
    };
  }, [list]);

  useEffect(() => {
    const calm = () => !pointerInside.value && (frame.current?.scrollTop ?? 0) === 0;
    const feed = listen(
      {},
      null,
      (data) => {
        for (const trace of (data as { items: Trace[] }).items) list.take(trace, calm);
        series.later();
      },
      () => {
        void list.renew(calm);
        series.later();
      },
    );
    return () => feed.close();
  }, [list, pointerInside, series]);

  useEffect(() => {
    const move = (to: number) => {
      at.value = Math.max(0, Math.min(to, list.rows.value.length - 1));
      rows.show(at.value);
      if (at.value > list.rows.value.length - 20) void list.more();
      requestAnimationFrame(() =>
        frame.current?.querySelector<HTMLElement>(`[data-row="${at.value}"]`)?.focus(),
      );
    };
    const mark = () => {
      const row = list.rows.value[at.value];
      if (row) toggle(row.id);
    };
    const toggle = (id: string) => {
      marked.value = marked.value.includes(id)
        ? marked.value.filter((one) => one !== id)
        : [...marked.value.slice(-1), id];
    };
    return offer([
      { keys: "/", does: "search", run: () => document.getElementById("search")?.focus() },
      { keys: "j", does: "next trace", run: () => move(at.value + 1) },
      { keys: "k", does: "previous trace", run: () => move(at.value - 1) },
      {
        keys: "Enter",
        does: "open the trace",
        run: () => {
          const row = list.rows.value[at.value];
          if (row) go(addressOf(row));
        },
      },
      { keys: "x", does: "mark a trace, to compare two", run: mark },
      {
        keys: "e",
        does: "only traces with errors, or all",
        run: () => setQuery({ has_error: query("has_error") ? null : "true" }),
      },
      {
        keys: "i",
        does: "only incomplete traces, or all",
        run: () => setQuery({ state: query("state") ? null : "lost,unaccounted,late" }),
      },
    ]);
  }, [at, list, marked, rows]);

  const onScroll = () => {
    const element = frame.current;
    if (!element) return;
    if (element.scrollTop + 2 * element.clientHeight > element.scrollHeight) void list.more();
    if (element.scrollTop === 0 && list.waiting.value.length > 0 && !pointerInside.value)
      list.reveal();
  };

  return (
    <>
      <h1 class="unseen">Traces</h1>
      <FilterBar />
      <div class="padded bar totals" aria-live="polite">
        {series.data.value && <Totals figures={series.data.value.total} />}
        {marked.value.length === 2 && (
          <a href={path("/compare", { a: marked.value[0], b: marked.value[1] })}>
            Compare the two marked
          </a>
        )}
      </div>
      <TimeChart series={series.data.value} />
      {list.failed.value && <Failure error={list.failed.value} retry={() => void list.again()} />}
      {list.waiting.value.length > 0 && (
        <button
          type="button"
          class="new-rows"
          onClick={() => {
            list.reveal();
            frame.current?.scrollTo(0, 0);
          }}
        >
          <span aria-hidden="true">↑</span> {whole(list.waiting.value.length)} new
        </button>
      )}
      {list.loading.value && list.rows.value.length === 0 && <Skeleton lines={12} />}
      {list.complete.value && list.rows.value.length === 0 && !list.failed.value && (
        <Empty filtered={here.value.search !== ""} />
      )}
      <div
        class="rows"
        ref={frame}
        onScroll={onScroll}
        onPointerEnter={() => (pointerInside.value = true)}
        onPointerLeave={() => {
          pointerInside.value = false;
          onScroll();
        }}
      >
        <ul style={{ height: `${rows.height.value}px` }} aria-label="Traces">
          {rows.items.value.map(({ index, start }) => {
            const trace = list.rows.value[index];
            return (
              trace && (
                <TraceRow
                  key={trace.id}
                  trace={trace}
                  index={index}
                  top={start}
                  height={rowHeight}
                  marked={marked.value.includes(trace.id)}
                />
              )
            );
          })}
        </ul>
      </div>
    </>
  );
}

/** Where a trace's own page is. */
export function addressOf(trace: { id: string }): string {
  return `/traces/${segment(trace.id)}`;
}

function TraceRow({
  trace,
  index,
  top,
  height,
  marked,
}: {
  trace: Trace;
  index: number;
  top: number;
  height: number;
  marked: boolean;
}) {
  const running = trace.completeness.open > 0 && !trace.completeness.stalled;
  const tokens = tokensOf(trace);
  const startMs = toMs(trace.start_ns);
  const lasted = running
    ? BigInt(Math.max(0, Math.round((now.value - startMs) * 1e6)))
    : BigInt(trace.duration_ns);
  return (
    <li style={{ transform: `translateY(${top}px)`, height: `${height}px` }}>
      <a
        href={addressOf(trace)}
        class={`trace-row${marked ? " marked" : ""}`}
        data-row={index}
        data-trace={trace.id}
      >
        <span class="sign">
          {trace.errors.count > 0 ? (
            <span class="error">
              <span aria-hidden="true">✕</span>
              <span class="unseen">failed</span>
            </span>
          ) : (
            <span class={running ? "state-running pulse" : "state-complete"}>
              <span aria-hidden="true">{running ? "◐" : "✓"}</span>
              <span class="unseen">{running ? "running" : "ended"}</span>
            </span>
          )}
        </span>
        <span class="what">
          <span class={`type-${family(trace.type)}`} title={trace.type}>
            <span aria-hidden="true">{signOf(trace.type)}</span>{" "}
            <strong>{oneLine(trace.name, 120)}</strong>
          </span>{" "}
          <span class="faint">
            {trace.errors.count > 0
              ? oneLine(`${trace.errors.type ?? "Error"}: ${trace.errors.message ?? ""}`, 160)
              : trace.input && oneLine(trace.input, 160)}
          </span>
        </span>
        <span class="figure lasted">
          {duration(lasted)}
          {running && "…"}
        </span>
        <span class={isIncomplete(trace.completeness.state) ? "spans incomplete" : "spans"}>
          <Badge completeness={trace.completeness} />
        </span>
        <span class="figure tokens">{tokens === null ? "–" : count(tokens)}</span>
        <span class="figure cost">{trace.cost.usd === null ? "–" : cost(trace.cost.usd)}</span>
        <span class="figure ago" title={moment(startMs, utc.value)}>
          {age(now.value - startMs)}
        </span>
      </a>
    </li>
  );
}

function Totals({ figures }: { figures: Figures }) {
  const parts = [
    `${whole(figures.count)} ${figures.count === 1 ? "trace" : "traces"}`,
    `${whole(figures.errors)} failed`,
    `${whole(figures.running)} running`,
    `${whole(figures.incomplete)} incomplete`,
  ];
  if (figures.p95_ns !== null) parts.push(`p95 ${duration(BigInt(figures.p95_ns))}`);
  return <span>{parts.join(", ")}</span>;
}

function FilterBar() {
  const open = useSignal(false);
  const typed = useRef<ReturnType<typeof setTimeout>>(undefined);
  const chosen = ["range", "from", "state", ...FILTERS].filter(
    (name) => name !== "text" && query(name),
  ).length;
  return (
    <search class={open.value ? "bar padded filters open" : "bar padded filters"}>
      <input
        id="search"
        type="search"
        placeholder="Search id, name, error, payload"
        aria-label="Search"
        value={query("text")}
        onInput={(event) => {
          const value = event.currentTarget.value;
          clearTimeout(typed.current);
          typed.current = setTimeout(() => setQuery({ text: value }, "replace"), 250);
        }}
      />
      <button
        type="button"
        class="fold"
        aria-expanded={open.value}
        onClick={() => (open.value = !open.value)}
      >
        Filters{chosen > 0 && ` (${chosen})`} <span aria-hidden="true">▾</span>
      </button>
      <select
        aria-label="Time range"
        value={query("from") ? "custom" : query("range")}
        onChange={(event) => setQuery({ range: event.currentTarget.value, from: null, to: null })}
      >
        <option value="">any time</option>
        {RANGES.map(([name]) => (
          <option key={name} value={name}>
            last {name}
          </option>
        ))}
        {query("from") && <option value="custom">as drawn</option>}
      </select>
      <select
        aria-label="State"
        value={query("state")}
        onChange={(event) => setQuery({ state: event.currentTarget.value })}
      >
        <option value="">any state</option>
        <option value="lost,unaccounted,late">incomplete</option>
        {STATES.map((state) => (
          <option key={state} value={state}>
            {state}
          </option>
        ))}
      </select>
      {(["type", "model", "agent", "name"] as const).map((name) => (
        <FacetSelect key={name} name={name} />
      ))}
      <button
        type="button"
        aria-pressed={query("has_error") === "true"}
        onClick={() => setQuery({ has_error: query("has_error") ? null : "true" })}
      >
        errors
      </button>
      {query("session") && (
        <button type="button" onClick={() => setQuery({ session: null })}>
          session {oneLine(query("session"), 24)} <span aria-hidden="true">×</span>
        </button>
      )}
      <Views />
    </search>
  );
}

/** A choice among the values that there are, which are asked for when the reader comes to it. */
function FacetSelect({ name }: { name: "type" | "model" | "agent" | "name" }) {
  const wanted = useSignal(false);
  const answer = useAnswer<{ items: { value: string; traces: number }[] }>(() =>
    wanted.value
      ? path(`/api/facets/${name}`, {
          from: asked.value["from"],
          to: asked.value["to"],
          limit: 200,
        })
      : null,
  );
  const values = answer.data.value?.items ?? [];
  const chosen = query(name);
  const want = () => {
    wanted.value = true;
  };
  return (
    <select
      aria-label={name}
      value={chosen}
      onFocus={want}
      onPointerEnter={want}
      onChange={(event) => setQuery({ [name]: event.currentTarget.value })}
    >
      <option value="">any {name}</option>
      {chosen && !values.some(({ value }) => value === chosen) && (
        <option value={chosen}>{oneLine(chosen, 40)}</option>
      )}
      {values.map(({ value, traces }) => (
        <option key={value} value={value}>
          {oneLine(value, 40)} ({whole(traces)})
        </option>
      ))}
    </select>
  );
}
