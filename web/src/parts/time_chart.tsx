// Traces over time, and how long they took; dragging over it sets the time range.

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Series } from "../lib/api.ts";
import { duration, moment, whole } from "../lib/format.ts";
import { setQuery } from "../lib/router.ts";
import { utc } from "../lib/settings.ts";

export function TimeChart({ series: answer }: { series: Series | null }) {
  const asTable = useSignal(false);
  const place = useRef<HTMLDivElement>(null);

  useEffect(() => {
    const element = place.current;
    if (!element || !answer || answer.items.length === 0 || asTable.value) return;
    let destroy: (() => void) | undefined;
    let gone = false;
    import("./chart.ts").then((module) => {
      if (gone) return;
      destroy = module.draw(element, answer.items, Number(answer.bucket_ns), (from, to) =>
        setQuery({
          range: null,
          from: new Date(from).toISOString(),
          to: new Date(to).toISOString(),
        }),
      );
    });
    return () => {
      gone = true;
      destroy?.();
    };
  }, [answer, asTable.value]);

  if (!answer || answer.items.length === 0) return null;
  return (
    <section class="chart padded" aria-label="Traces over time">
      {asTable.value ? (
        <table>
          <thead>
            <tr>
              <th>from</th>
              <th class="figure">traces</th>
              <th class="figure">failed</th>
              <th class="figure">p50</th>
              <th class="figure">p95</th>
            </tr>
          </thead>
          <tbody>
            {answer.items
              .filter((bucket) => bucket.figures.count > 0)
              .map((bucket) => (
                <tr key={bucket.start_ns}>
                  <td>{moment(Number(BigInt(bucket.start_ns) / 1_000_000n), utc.value)}</td>
                  <td class="figure">{whole(bucket.figures.count)}</td>
                  <td class="figure">{whole(bucket.figures.errors)}</td>
                  <td class="figure">
                    {bucket.figures.p50_ns && duration(BigInt(bucket.figures.p50_ns))}
                  </td>
                  <td class="figure">
                    {bucket.figures.p95_ns && duration(BigInt(bucket.figures.p95_ns))}
                  </td>
                </tr>
              ))}
          </tbody>
        </table>
      ) : (
        <div class="plot" ref={place} />
      )}
      <button type="button" class="plain faint" onClick={() => (asTable.value = !asTable.value)}>
        {asTable.value ? "as a chart" : "as a table"}
      </button>
    </section>
  );
}
