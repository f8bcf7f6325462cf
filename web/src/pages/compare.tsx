// Two traces side by side: what took longer, what cost more, which words of a prompt changed.

import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { align, type Pair } from "../lib/align.ts";
import { linesOf, type Span, type Skeleton as SpanSkeleton } from "../lib/api.ts";
import { bytes, duration, oneLine, visible, whole } from "../lib/format.ts";
import { get, path, type RequestFailed, segment } from "../lib/http.ts";
import { query } from "../lib/router.ts";
import type { Line } from "../lib/trace_view.ts";
import { Failure, Skeleton } from "../parts/failure.tsx";

/** Spans of a trace that are compared: a longer table nobody reads. */
const SPANS_MAX = 2000;

export function Compare() {
  const [a, b] = [query("a"), query("b")];
  return a && b ? <Compared key={`${a} ${b}`} a={a} b={b} /> : <Choice a={a} b={b} />;
}

/** Asks for the traces. */
function Choice({ a, b }: { a: string; b: string }) {
  const field = (name: string, label: string, value: string) => (
    <p>
      <label>
        {label} <input name={name} defaultValue={value} required size={40} />
      </label>
    </p>
  );
  return (
    <form class="padded" action="/compare">
      <h1>Compare</h1>
      <p class="faint">Two traces side by side. In the list, x marks what to compare.</p>
      {field("a", "First trace id", a)}
      {field("b", "Second trace id", b)}
      <button type="submit">Compare</button>
    </form>
  );
}

function Compared({ a, b }: { a: string; b: string }) {
  const lines = useSignal<[Loaded, Loaded] | null>(null);
  const failed = useSignal<RequestFailed | null>(null);
  const chosen = useSignal<Pair | null>(null);
  const round = useSignal(0);
  useEffect(() => {
    document.title = "Compare – everyspan";
    const abort = new AbortController();
    Promise.all([a, b].map((id) => load(id, abort.signal))).then(
      ([first, second]) => {
        lines.value = [first as Loaded, second as Loaded];
        failed.value = null;
      },
      (error) => {
        if (!abort.signal.aborted) failed.value = error as RequestFailed;
      },
    );
    return () => abort.abort();
  }, [a, b, lines, failed, round.value]);
  const pairs = useMemo(
    () => (lines.value ? align(lines.value[0].lines, lines.value[1].lines) : []),
    [lines.value],
  );

  if (failed.value) return <Failure error={failed.value} retry={() => (round.value += 1)} />;
  if (!lines.value) return <Skeleton lines={12} />;
  return (
    <div class="padded">
      <h1>Compare</h1>
      {lines.value.some(({ more }) => more) && (
        <p class="incomplete">Only the first {whole(SPANS_MAX)} spans of each are compared.</p>
      )}
      <div class="card">
        <table class="compared">
          <thead>
            <tr>
              <th>span</th>
              <th class="figure">
                <a href={`/traces/${segment(a)}`}>{oneLine(a, 12)}</a>
              </th>
              <th class="figure">
                <a href={`/traces/${segment(b)}`}>{oneLine(b, 12)}</a>
              </th>
              <th class="figure">difference</th>
              <th class="figure">tokens</th>
              <th>payloads</th>
            </tr>
          </thead>
          <tbody>
            {pairs.map((pair, n) => (
              <tr key={n}>
                <td style={{ paddingLeft: `${10 + Math.min(pair.depth, 12) * 14}px` }}>
                  {oneLine(pair.name, 80)}
                  {pair.a === null && pair.b === null && (
                    <span class="incomplete"> not stored</span>
                  )}
                </td>
                <td class="figure">{lasted(pair.a)}</td>
                <td class="figure">{lasted(pair.b)}</td>
                <td class="figure">{difference(pair)}</td>
                <td class="figure">
                  {(tokens(pair.a) ?? tokens(pair.b)) !== null &&
                    `${tokens(pair.a) ?? "–"} → ${tokens(pair.b) ?? "–"}`}
                </td>
                <td>
                  {pair.a && pair.b && (
                    <button type="button" onClick={() => (chosen.value = pair)}>
                      words
                    </button>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {chosen.value && <Words key={chosen.value.a?.id} a={a} b={b} pair={chosen.value} />}
    </div>
  );
}

interface Change {
  value: string;
  added?: boolean;
  removed?: boolean;
}

function Words({ a, b, pair }: { a: string; b: string; pair: Pair }) {
  const changes = useSignal<Record<string, Change[]> | null>(null);
  const compared = useSignal<Record<string, number>>({});
  const failed = useSignal("");
  useEffect(() => {
    const one = (trace: string, span: string) =>
      get<Span>(`/api/traces/${segment(trace)}/spans/${segment(span)}`);
    Promise.all([import("diff"), one(a, pair.a?.id ?? ""), one(b, pair.b?.id ?? "")]).then(
      ([{ diffWordsWithSpace }, first, second]) => {
        const made: Record<string, Change[]> = {};
        for (const field of ["input", "output"] as const) {
          const pieces = [first.payloads[field], second.payloads[field]];
          const partial = pieces.filter((piece) => piece && piece.next !== null);
          if (partial.length > 0) {
            compared.value = { ...compared.value, [field]: partial[0]?.next ?? 0 };
          }
          made[field] = diffWordsWithSpace(
            first.payloads[field]?.text ?? "",
            second.payloads[field]?.text ?? "",
            { timeout: 2000 },
          ) ?? [{ value: "too different to compare" }];
        }
        changes.value = made;
      },
      (error) => (failed.value = String(error)),
    );
  }, [a, b, pair, changes, compared, failed]);
  if (failed.value) return <p class="error">{failed.value}</p>;
  if (!changes.value) return <Skeleton />;
  return (
    <section class="card" aria-label="Words that changed">
      <h2>{oneLine(pair.name, 80)}</h2>
      {Object.entries(changes.value).map(([field, words]) => (
        <div key={field}>
          <h3>{field}</h3>
          {field in compared.value && (
            <p class="incomplete">
              Only the first {bytes(compared.value[field] ?? 0)} are compared.
            </p>
          )}
          <div class="mono prose">
            {words.map((change, n) =>
              change.added ? (
                <ins key={n}>{visible(change.value)}</ins>
              ) : change.removed ? (
                <del key={n}>{visible(change.value)}</del>
              ) : (
                visible(change.value)
              ),
            )}
          </div>
        </div>
      ))}
    </section>
  );
}

interface Loaded {
  lines: Line[];
  /** The trace has spans beyond these. */
  more: boolean;
}

async function load(id: string, signal: AbortSignal): Promise<Loaded> {
  const page: SpanSkeleton = await get(
    path(`/api/traces/${segment(id)}/spans`, { limit: SPANS_MAX }),
    signal,
  );
  return { lines: linesOf(page), more: page.next !== null };
}

function lasted(line: Line | null): string {
  if (line === null) return "–";
  return line.end === null ? "open" : duration(BigInt(Math.round(line.end - line.start)));
}

function difference({ a, b }: Pair): string {
  if (!a || !b || a.end === null || b.end === null) return "";
  const ns = b.end - b.start - (a.end - a.start);
  return `${ns >= 0 ? "+" : "−"}${duration(BigInt(Math.abs(Math.round(ns))))}`;
}

function tokens(line: Line | null): string | null {
  if (line === null || (line.inputTokens === null && line.outputTokens === null)) return null;
  return `${(line.inputTokens ?? 0) + (line.outputTokens ?? 0)}`;
}
