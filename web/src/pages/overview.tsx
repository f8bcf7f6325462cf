// Spans by model, name, type and agent: how many, how many failed, how long, what they cost.

import { useEffect } from "preact/hooks";
import type { Overview as Groups, Series } from "../lib/api.ts";
import { useAnswer } from "../lib/ask.ts";
import { cost, count, duration, oneLine, whole } from "../lib/format.ts";
import { path } from "../lib/http.ts";
import { query, setQuery } from "../lib/router.ts";
import { Failure, Skeleton } from "../parts/failure.tsx";
import { TimeChart } from "../parts/time_chart.tsx";

const GROUPS = ["model", "name", "type", "agent"] as const;
const RANGES: [string, number][] = [
  ["1h", 3_600_000],
  ["24h", 86_400_000],
  ["7d", 7 * 86_400_000],
];

export function Overview() {
  const by = GROUPS.find((name) => name === query("by")) ?? "model";
  const since = RANGES.find(([name]) => name === query("range"))?.[1];
  const from =
    since === undefined
      ? null
      : new Date(Math.floor((Date.now() - since) / 60_000) * 60_000).toISOString();
  const answer = useAnswer<Groups>(() => path("/api/overview", { by, from, limit: 200 }));
  const series = useAnswer<Series>(() => path("/api/series", { from }));
  useEffect(() => {
    document.title = "Overview – everyspan";
  }, []);
  const groups = answer.data.value;
  return (
    <div class="padded">
      <h1>Overview</h1>
      <div class="bar">
        {GROUPS.map((name) => (
          <button
            key={name}
            type="button"
            aria-pressed={name === by}
            onClick={() => setQuery({ by: name })}
          >
            by {name}
          </button>
        ))}
        <select
          aria-label="Time range"
          value={query("range")}
          onChange={(event) => setQuery({ range: event.currentTarget.value })}
        >
          <option value="">any time</option>
          {RANGES.map(([name]) => (
            <option key={name} value={name}>
              last {name}
            </option>
          ))}
        </select>
      </div>
      <TimeChart series={series.data.value} />
      {answer.failed.value && <Failure error={answer.failed.value} retry={answer.again} />}
      {!groups && !answer.failed.value && <Skeleton />}
      {groups && (
        <div class="card">
          <table>
            <thead>
              <tr>
                <th>{by}</th>
                <th class="figure">spans</th>
                <th class="figure">failed</th>
                <th class="figure">p50</th>
                <th class="figure">p95</th>
                <th class="figure">p99</th>
                <th class="figure">tokens</th>
                <th class="figure">cost</th>
              </tr>
            </thead>
            <tbody>
              {groups.items.map(({ value, figures }) => (
                <tr key={value ?? ""}>
                  <td>
                    {value === null ? (
                      <span class="faint">none</span>
                    ) : (
                      <a href={path("/", { [by]: value, range: query("range") })}>
                        {oneLine(value, 80)}
                      </a>
                    )}
                  </td>
                  <td class="figure">{whole(figures.count)}</td>
                  <td class={figures.errors > 0 ? "figure error" : "figure"}>
                    {whole(figures.errors)}
                    {figures.errors > 0 &&
                      ` (${((100 * figures.errors) / figures.count).toFixed(1)} %)`}
                  </td>
                  {[figures.p50_ns, figures.p95_ns, figures.p99_ns].map((ns, n) => (
                    <td key={n} class="figure">
                      {ns === null ? "–" : duration(BigInt(ns))}
                    </td>
                  ))}
                  <td class="figure">{count(figures.tokens)}</td>
                  <td class="figure">{figures.cost_usd > 0 ? cost(figures.cost_usd) : "–"}</td>
                </tr>
              ))}
            </tbody>
          </table>
          {groups.partial && (
            <p class="faint">The newest {whole(groups.spans)} spans of this time are counted.</p>
          )}
        </div>
      )}
    </div>
  );
}
