// One trace: its spans in a grid, what one of them holds, what is missing.

import { batch, effect, useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { linesOf, type Skeleton as SpanSkeleton, type Trace, tokensOf } from "../lib/api.ts";
import { useAnswer } from "../lib/ask.ts";
import { copied, copy } from "../lib/copy.ts";
import { curlOf, pythonOf, spansAsText } from "../lib/export.ts";
import { cost, count, duration, oneLine, visible, whole } from "../lib/format.ts";
import { get, path, type RequestFailed, segment } from "../lib/http.ts";
import { offer } from "../lib/keys.ts";
import { listen } from "../lib/live.ts";
import { go, query, setQuery } from "../lib/router.ts";
import { clampZoom } from "../lib/timescale.ts";
import { neighbour } from "../lib/trace_list.ts";
import { TraceView } from "../lib/trace_view.ts";
import { Badge } from "../parts/badge.tsx";
import { Detail } from "../parts/detail.tsx";
import { Failure, Skeleton } from "../parts/failure.tsx";
import { Menu } from "../parts/menu.tsx";
import { Minimap } from "../parts/minimap.tsx";
import { Waterfall } from "../parts/waterfall.tsx";

const LIVE_WAIT_MS = 100;

export function TracePage({ id }: { id: string }) {
  const base = `/api/traces/${segment(id)}`;
  const view = useMemo(() => new TraceView(), []);
  const trace = useAnswer<Trace>(() => base);
  const failed = useSignal<RequestFailed | null>(null);
  const loaded = useSignal(false);
  const round = useSignal(0);

  useEffect(() => {
    performance.mark("trace-asked");
    const abort = new AbortController();
    let since = "0";
    let timer: ReturnType<typeof setTimeout> | undefined;
    let feed: { close(): void } | undefined;

    const load = async (from: string) => {
      let after: string | null = null;
      let change = from;
      do {
        const page: SpanSkeleton = await get(
          path(`${base}/spans`, { after, since: from }),
          abort.signal,
        );
        performance.mark("trace-data");
        if (page.spans.id.length > 0) view.take(BigInt(page.base_ns), linesOf(page));
        // What is written while the pages are read comes with the next look.
        if (after === null) change = page.change;
        after = page.next;
      } while (after !== null);
      since = change;
    };

    load("0").then(
      () => {
        loaded.value = true;
        failed.value = null;
        restore(view);
        feed = listen({ trace: id }, since, () => {
          timer ??= setTimeout(() => {
            timer = undefined;
            trace.again();
            load(since).catch(() => undefined);
          }, LIVE_WAIT_MS);
        });
      },
      (error) => {
        if (!abort.signal.aborted) failed.value = error as RequestFailed;
      },
    );
    return () => {
      abort.abort();
      clearTimeout(timer);
      feed?.close();
    };
  }, [base, id, view, trace, failed, loaded, round.value]);

  useEffect(() => keepInAddress(view), [view]);

  // On a phone it stands below what is in view; elsewhere this moves nothing.
  const detail = useRef<HTMLElement>(null);
  useEffect(() => {
    if (view.selected.value !== null) detail.current?.scrollIntoView({ block: "nearest" });
  }, [view, view.selected.value]);

  useEffect(() => {
    const other = (step: 1 | -1) => () => {
      const next = neighbour(id, step);
      if (next !== null) go(`/traces/${segment(next)}`);
    };
    return offer([
      { keys: "J", does: "next trace of the list", run: other(1) },
      { keys: "K", does: "previous trace of the list", run: other(-1) },
      {
        keys: "/",
        does: "search in the trace",
        run: () => document.getElementById("search")?.focus(),
      },
      {
        keys: "v",
        does: "show the conversation",
        run: () => {
          const session = trace.data.value?.session;
          if (session) go(`/conversations/${segment(session)}`);
        },
      },
      { keys: "y", does: "copy a link to this view", run: () => void copy(location.href) },
      {
        keys: "Escape",
        does: "close the span, or go back",
        run: () => {
          if (view.selected.value === null) history.back();
          else view.select(null);
        },
      },
    ]);
  }, [id, trace, view]);

  if (failed.value?.status === 404) {
    return (
      <div class="padded">
        <h1>No such trace</h1>
        <p>
          Nothing is stored of <span class="mono">{visible(id)}</span>.
        </p>
      </div>
    );
  }
  const selected = view.selected.value;
  const selectedIsStored = selected !== null && view.byId.value.has(selected);
  return (
    <>
      {trace.data.value ? (
        <Head trace={trace.data.value} view={view} />
      ) : (
        <h1 class="unseen">Trace</h1>
      )}
      {failed.value && <Failure error={failed.value} retry={() => (round.value += 1)} />}
      {!loaded.value && !failed.value && view.lines.value.length === 0 ? (
        <Skeleton lines={16} />
      ) : (
        <>
          <Minimap view={view} />
          <div class={selected === null ? "trace-body alone" : "trace-body"}>
            <div class="trace-left">
              <Waterfall view={view} />
              {trace.data.value && <Gaps trace={trace.data.value} />}
            </div>
            {selected !== null && (
              <section class="detail" aria-label="Span" ref={detail}>
                {selectedIsStored ? (
                  <Detail trace={id} span={selected} />
                ) : (
                  <Missing trace={trace.data.value} id={selected} />
                )}
              </section>
            )}
          </div>
        </>
      )}
    </>
  );
}

function Head({ trace, view }: { trace: Trace; view: TraceView }) {
  useEffect(() => {
    document.title = `${oneLine(trace.name, 60)} – everyspan`;
  }, [trace.name]);
  const tokens = tokensOf(trace);
  const errors = view.errors.value;
  const at = view.selected.value === null ? -1 : errors.indexOf(view.selected.value);
  const lasted = view.isOpen.value
    ? BigInt(Math.round(view.length.value))
    : BigInt(trace.duration_ns);
  return (
    <div class="padded trace-head">
      <a href="/" aria-label="All traces">
        ‹
      </a>
      <h1>{oneLine(trace.name, 120)}</h1>
      <span class="mono faint">{oneLine(trace.trace_id, 36)}</span>
      <Badge completeness={trace.completeness} />
      <span>
        {duration(lasted)}
        {view.isOpen.value && "…"}
      </span>
      {tokens !== null && (
        <span title={usageTitle(trace)}>
          {count(trace.tokens.input ?? 0)}→{count(trace.tokens.output ?? 0)} tok
        </span>
      )}
      {trace.cost.usd !== null && (
        <span title={trace.cost.rule ?? undefined}>{cost(trace.cost.usd)}</span>
      )}
      {errors.length > 0 && (
        <span class="error">
          errors{" "}
          <button type="button" aria-label="previous error" onClick={() => view.jump(errors, -1)}>
            ‹
          </button>{" "}
          {at >= 0 ? `${at + 1}/` : ""}
          {errors.length}{" "}
          <button type="button" aria-label="next error" onClick={() => view.jump(errors, 1)}>
            ›
          </button>
        </span>
      )}
      <input
        id="search"
        type="search"
        aria-label="Search in the trace"
        placeholder="Search spans"
        value={view.search.value}
        onInput={(event) => {
          view.search.value = event.currentTarget.value;
        }}
        onKeyDown={(event) => {
          if (event.key === "Enter") view.jump(view.matches.value, event.shiftKey ? -1 : 1);
        }}
      />
      {view.search.value && <span class="faint">{whole(view.matches.value.length)} found</span>}
      <button
        type="button"
        aria-pressed={view.pathShown.value}
        onClick={() => (view.pathShown.value = !view.pathShown.value)}
      >
        critical path
      </button>
      <button
        type="button"
        aria-pressed={view.idleCollapsed.value}
        onClick={() => (view.idleCollapsed.value = !view.idleCollapsed.value)}
      >
        collapse idle
      </button>
      {trace.session !== null && (
        <a href={`/conversations/${segment(trace.session)}`}>conversation</a>
      )}
      <a href={`/compare?a=${segment(trace.trace_id)}`}>compare</a>
      <CopyMenu trace={trace} />
      <span class="faint" role="status">
        {copied.value}
      </span>
    </div>
  );
}

function usageTitle({ tokens }: Trace): string {
  const words = ({
    rule,
    input,
    output,
  }: {
    rule: string | null;
    input: number | null;
    output: number | null;
  }) => `${rule ?? ""}: ${whole(input ?? 0)}→${whole(output ?? 0)}`;
  return tokens.other ? `${words(tokens)}; ${words(tokens.other)}` : words(tokens);
}

function CopyMenu({ trace }: { trace: Trace }) {
  const id = trace.trace_id;
  const copySpans = async () => {
    copied.value = "fetching";
    try {
      await copy(await spansAsText(id));
    } catch (error) {
      copied.value = `not copied: ${error instanceof Error ? error.message : error}`;
    }
  };
  return (
    <Menu label="Copy">
      <button type="button" class="plain" onClick={() => void copy(location.href)}>
        Link
      </button>
      <button type="button" class="plain" onClick={() => void copy(id)}>
        Trace id
      </button>
      <button type="button" class="plain" onClick={() => void copySpans()}>
        JSON
      </button>
      <button type="button" class="plain" onClick={() => void copy(curlOf(location.origin, id))}>
        cURL
      </button>
      <button type="button" class="plain" onClick={() => void copy(pythonOf(location.origin, id))}>
        Python
      </button>
    </Menu>
  );
}

/** What is not here, in words, below all spans. */
function Gaps({ trace }: { trace: Trace }) {
  const reasons = Object.entries(trace.completeness.dropped);
  if (reasons.length === 0 && trace.completeness.late === 0 && trace.completeness.unaccounted === 0)
    return null;
  return (
    <section class="gaps" aria-label="What is missing">
      {reasons.map(([reason, spans]) => (
        <div key={reason} class="error">
          <span aria-hidden="true">✕</span> {whole(spans)} dropped: {visible(reason)}, names unknown
        </div>
      ))}
      {trace.completeness.late > 0 && (
        <div class="incomplete">
          <span aria-hidden="true">◔</span> {whole(trace.completeness.late)} on the way
        </div>
      )}
      {trace.completeness.unaccounted > 0 && (
        <div class="error">
          <span aria-hidden="true">?</span> {whole(trace.completeness.unaccounted)} missing, nobody
          reported why
        </div>
      )}
    </section>
  );
}

function Missing({ trace, id }: { trace: Trace | null; id: string }) {
  return (
    <div class="padded">
      <h2>Not stored</h2>
      <p>
        Spans name <span class="mono">{visible(id)}</span> as their parent, and it has not arrived
        {trace?.completeness.state === "late" ? ": it may still be on the way." : "."}
      </p>
      {trace && Object.keys(trace.completeness.dropped).length > 0 && (
        <p>
          The trace's producers gave up{" "}
          {Object.entries(trace.completeness.dropped)
            .map(([reason, spans]) => `${spans}: ${visible(reason)}`)
            .join("; ")}
          . It may be among those.
        </p>
      )}
    </div>
  );
}

/** Take from the address what is selected and which part is shown. */
function restore(view: TraceView): void {
  const [from, to] = query("zoom").split("-").map(Number);
  // At once: the address follows each change, and would forget what is not yet taken from it.
  batch(() => {
    if (from !== undefined && to !== undefined && from < to) {
      view.zoom.value = clampZoom(view.scale.value.toPart(from), view.scale.value.toPart(to));
    }
    view.search.value = query("q");
    if (query("span")) view.select(query("span"));
  });
}

/** Have the address say what is selected and which part is shown. */
function keepInAddress(view: TraceView): () => void {
  return effect(() => {
    const { from, to } = view.zoom.value;
    const scale = view.scale.peek();
    const isAll = from === 0 && to === 1;
    const zoom = isAll ? null : `${Math.round(scale.toNs(from))}-${Math.round(scale.toNs(to))}`;
    const span = view.selected.value;
    const q = view.search.value;
    if (view.lines.peek().length > 0) setQuery({ zoom, span, q }, "replace");
  });
}
