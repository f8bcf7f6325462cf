// The chart library, loaded when a chart is shown.

import uPlot from "uplot";
import type { Bucket } from "../lib/api.ts";
import { duration, whole } from "../lib/format.ts";

const HEIGHT = 90;

/** Draw buckets as bars, failed ones in front, p95 as a line; returns what removes it. */
export function draw(
  place: HTMLElement,
  buckets: readonly Bucket[],
  bucketNs: number,
  onRange: (fromMs: number, toMs: number) => void,
): () => void {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => {
    // Canvas knows no light-dark(): let the browser work it out.
    const probe = document.createElement("span");
    probe.style.color = style.getPropertyValue(name);
    place.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const bars = uPlot.paths.bars?.({ size: [0.8, 40], align: 1 });
  const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 } };
  const plot = new uPlot(
    {
      width: place.clientWidth || 600,
      height: HEIGHT,
      legend: { show: false },
      cursor: { drag: { x: true, y: false, setScale: false } },
      scales: { p95: {} },
      axes: [
        axis,
        {
          ...axis,
          size: 44,
          values: (_, ticks) => ticks.map((n) => (Number.isInteger(n) ? whole(n) : "")),
        },
        {
          ...axis,
          scale: "p95",
          side: 1,
          size: 56,
          grid: { show: false },
          values: (_, ticks) => ticks.map((ns) => duration(BigInt(Math.round(ns)))),
        },
      ],
      series: [
        {},
        {
          label: "traces",
          fill: colour("--other"),
          width: 0,
          ...(bars ? { paths: bars } : {}),
          points: { show: false },
        },
        {
          label: "failed",
          fill: colour("--error"),
          width: 0,
          ...(bars ? { paths: bars } : {}),
          points: { show: false },
        },
        { label: "p95", scale: "p95", stroke: colour("--agent"), width: 2, spanGaps: true },
      ],
      hooks: {
        setSelect: [
          (chart) => {
            if (chart.select.width < 4) return;
            const from = chart.posToVal(chart.select.left, "x") * 1000;
            const to = chart.posToVal(chart.select.left + chart.select.width, "x") * 1000;
            onRange(from, to);
          },
        ],
      },
    },
    [
      buckets.map((bucket) => Number(BigInt(bucket.start_ns) / 1_000_000n) / 1000),
      buckets.map((bucket) => bucket.figures.count),
      buckets.map((bucket) => bucket.figures.errors),
      buckets.map((bucket) =>
        bucket.figures.p95_ns === null ? null : Number(bucket.figures.p95_ns),
      ),
    ],
    place,
  );
  plot.root.dataset["bucketNs"] = `${bucketNs}`;
  const resized = new ResizeObserver(() =>
    plot.setSize({ width: place.clientWidth, height: HEIGHT }),
  );
  resized.observe(place);
  return () => {
    resized.disconnect();
    plot.destroy();
  };
}
