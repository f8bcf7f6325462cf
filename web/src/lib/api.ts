// What the server's query API answers (`/api/openapi.json` describes all of it). Nanoseconds and
// change numbers are decimal text, since a number here ends at 2^53.

import type { Line } from "./trace_view.ts";

export type State = "lost" | "unaccounted" | "late" | "running" | "not reported" | "complete";

export const STATES: readonly State[] = [
  "lost",
  "unaccounted",
  "late",
  "running",
  "not reported",
  "complete",
];

export interface Completeness {
  state: State;
  sign: string;
  words: string;
  stalled: boolean;
  stored: number;
  counted: number;
  expected: number;
  missing: number;
  dropped: Record<string, number>;
  late: number;
  unaccounted: number;
  open: number;
  parents_missing: number;
}

interface TokenFigure {
  input: number | null;
  output: number | null;
  rule: string | null;
}

/** A trace as a whole; `id` is for addresses. */
export interface Trace {
  id: string;
  trace_id: string;
  change: string;
  name: string;
  type: string;
  status: string;
  start_ns: string;
  end_ns: string | null;
  duration_ns: string;
  spans: number;
  completeness: Completeness;
  errors: { count: number; type: string | null; message: string | null };
  tokens: TokenFigure & { other: TokenFigure | null };
  cost: { usd: number | null; rule: string | null };
  agent: string | null;
  models: string[];
  session: string | null;
  user: string | null;
  input: string | null;
  output: string | null;
}

export interface Page<T> {
  items: T[];
  next: string | null;
}

/** Both token counts together; null where none was reported. */
export function tokensOf({ tokens }: Trace): number | null {
  if (tokens.input === null && tokens.output === null) return null;
  return (tokens.input ?? 0) + (tokens.output ?? 0);
}

/** Whether spans are missing, or may be. */
export function isIncomplete(state: State): boolean {
  return state === "lost" || state === "unaccounted" || state === "late";
}

/** The spans of a trace without their payloads, in columns. */
export interface Skeleton {
  base_ns: string;
  change: string;
  names: string[];
  types: string[];
  statuses: string[];
  models: string[];
  spans: {
    id: string[];
    parent: (number | string | null)[];
    name: number[];
    type: number[];
    status: number[];
    model: number[];
    start: string[];
    duration: (string | null)[];
  };
  usage: { span: number[]; input: (number | null)[]; output: (number | null)[] };
  errors: { span: number; type: string }[];
  next: string | null;
}

/** The spans of a skeleton as rows; moments are nanoseconds from its `base_ns`. */
export function linesOf(skeleton: Skeleton): Line[] {
  const { spans, names, types, statuses, models } = skeleton;
  const change = Number(skeleton.change);
  const lines = spans.id.map((id, n): Line => {
    const parent = spans.parent[n] ?? null;
    const start = Number(spans.start[n]);
    const lasted = spans.duration[n] ?? null;
    return {
      id,
      parentId: typeof parent === "number" ? (spans.id[parent] ?? null) : parent,
      name: names[spans.name[n] ?? -1] ?? "",
      type: types[spans.type[n] ?? -1] ?? "",
      status: statuses[spans.status[n] ?? -1] ?? "",
      model: models[spans.model[n] ?? -1] ?? null,
      start,
      end: lasted === null ? null : start + Number(lasted),
      inputTokens: null,
      outputTokens: null,
      error: null,
      change,
    };
  });
  skeleton.usage.span.forEach((span, n) => {
    const line = lines[span];
    if (!line) return;
    line.inputTokens = skeleton.usage.input[n] ?? null;
    line.outputTokens = skeleton.usage.output[n] ?? null;
  });
  for (const { span, type } of skeleton.errors) {
    const line = lines[span];
    if (line) line.error = type;
  }
  return lines;
}

/** A part of a payload's text: of `size` bytes those from `offset` on, up to `next`. */
export interface Piece {
  offset: number;
  size: number;
  text: string;
  next: number | null;
}

export type Field = "input" | "output" | "metadata" | "expected";

export interface Span {
  id: string;
  trace_id: string;
  parent_id: string | null;
  name: string;
  type: string;
  status: string;
  start_ns: string;
  end_ns: string | null;
  duration_ns: string | null;
  task_id: string | null;
  group_id: string | null;
  agent: string | null;
  model: string | null;
  input_tokens: number | null;
  output_tokens: number | null;
  cost_usd: number | null;
  error_type: string | null;
  error_message: string | null;
  payloads: Record<Field, Piece | null>;
}

export interface Annotation {
  id: string;
  span_id: string;
  approval: "approved" | "rejected" | null;
  comment: string | null;
}

/** Sums over traces or spans. */
export interface Figures {
  count: number;
  errors: number;
  running: number;
  incomplete: number;
  tokens: number;
  cost_usd: number;
  p50_ns: string | null;
  p95_ns: string | null;
  p99_ns: string | null;
}

export interface Bucket {
  start_ns: string;
  figures: Figures;
}

export interface Series {
  bucket_ns: string;
  total: Figures;
  items: Bucket[];
}

export interface Overview {
  items: { value: string | null; figures: Figures }[];
  spans: number;
  partial: boolean;
}

export interface Books {
  name: string;
  accepted: number;
  delivered: number;
  dropped: Record<string, number>;
  rejected: Record<string, number>;
  queued: number;
  in_flight: number;
  spooled: number;
  oldest_age_s: number | null;
}

export interface Producer {
  id: string;
  service: string;
  host: string;
  pid: number;
  seen_ns: string;
  ended: boolean;
  open_spans: number;
  residual: number;
  destinations: Books[];
}

export interface Loss {
  trace_id: string;
  trace: string;
  part: string;
  told_ns: string;
  lost: Record<string, number>;
}

export interface Health {
  status: string;
  version: string;
  spans: number;
  waiting: number;
  waiting_bytes: number;
  size_bytes: number;
  free_bytes: number | null;
  unsummarized: number;
  unindexed: number;
}
