// One span: its messages, payloads, books and raw form. Payloads come when they are looked at.

import { useComputed, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Field, Piece, Span } from "../lib/api.ts";
import { useAnswer } from "../lib/ask.ts";
import { copy } from "../lib/copy.ts";
import { bytes, cost, duration, moment, visible, whole } from "../lib/format.ts";
import { get, path, segment } from "../lib/http.ts";
import { type Json, parse, plain } from "../lib/json.ts";
import { type Message, messagesOf } from "../lib/messages.ts";
import { query, setQuery } from "../lib/router.ts";
import { formatted, utc } from "../lib/settings.ts";
import { Annotations } from "./annotations.tsx";
import { Failure, Skeleton } from "./failure.tsx";
import { JsonView, LongText } from "./json_view.tsx";
import { MessagesView } from "./messages_view.tsx";

const TABS = ["messages", "input", "output", "data", "ledger", "raw"] as const;
type Tab = (typeof TABS)[number];
// As the SDK writes them where it left something out.
const MARKS: [RegExp, string][] = [
  [/\[REDACTED[:\]]/, "redacted"],
  [
    /…\[everyspan: \d+ (?:characters|bytes|items) cut\]|…\[everyspan: too (?:big|deep)/,
    "truncated",
  ],
  [/…\[everyspan: \d+ bytes shed\]/, "shed"],
];

export function Detail({ trace, span }: { trace: string; span: string }) {
  const base = `/api/traces/${segment(trace)}/spans/${segment(span)}`;
  const answer = useAnswer<Span>(() => base);
  const detail = answer.data.value?.id === span ? answer.data.value : null;
  if (answer.failed.value) return <Failure error={answer.failed.value} retry={answer.again} />;
  if (!detail) return <Skeleton />;
  return <Loaded key={span} base={base} trace={trace} detail={detail} />;
}

function Loaded({ base, trace, detail }: { base: string; trace: string; detail: Span }) {
  const input = usePayload(trace, detail, "input");
  const output = usePayload(trace, detail, "output");
  const metadata = usePayload(trace, detail, "metadata");
  const messages = useComputed<Message[] | null>(() => {
    const asked = input.json.value && messagesOf(plain(input.json.value), "user");
    const said = output.json.value && messagesOf(plain(output.json.value), "assistant");
    return asked || said ? [...(asked ?? []), ...(said ?? [])] : null;
  });
  const chosen = query("tab") as Tab;
  const tab: Tab = TABS.includes(chosen) ? chosen : messages.value ? "messages" : "input";
  const panel = () => {
    switch (tab) {
      case "messages":
        return messages.value ? (
          <>
            <label class="faint">
              <input
                type="checkbox"
                checked={formatted.value}
                onChange={(event) => (formatted.value = event.currentTarget.checked)}
              />{" "}
              formatted
            </label>
            <Rest payload={input} field="input" />
            <Rest payload={output} field="output" />
            <MessagesView messages={messages.value} />
          </>
        ) : (
          <p class="faint">No messages of a known shape; Input and Output have what there is.</p>
        );
      case "input":
        return <PayloadView payload={input} field="input" />;
      case "output":
        return <PayloadView payload={output} field="output" />;
      case "data":
        return <PayloadView payload={metadata} field="metadata" />;
      case "ledger":
        return <Facts detail={detail} />;
      case "raw":
        return <Raw base={base} />;
    }
  };
  return (
    <>
      <div class="padded">
        <h2>{visible(detail.name)}</h2>
        <div class="faint">
          {detail.type} · {detail.status}
          {detail.duration_ns !== null && ` · ${duration(BigInt(detail.duration_ns))}`}
          {detail.model !== null && ` · ${visible(detail.model)}`}
        </div>
        {detail.error_type !== null && (
          <p class="error">
            {visible(detail.error_type)}: <LongText text={detail.error_message ?? ""} />
          </p>
        )}
        <Annotations trace={trace} span={detail.id} />
      </div>
      <div class="tabs" role="tablist" aria-label="Parts of the span">
        {TABS.map((name) => (
          <button
            key={name}
            id={`tab-${name}`}
            type="button"
            role="tab"
            aria-selected={tab === name}
            aria-controls="tab-panel"
            onClick={() => setQuery({ tab: name }, "replace")}
          >
            {name}
          </button>
        ))}
      </div>
      <div id="tab-panel" class="tab-panel" role="tabpanel" aria-labelledby={`tab-${tab}`}>
        {panel()}
      </div>
    </>
  );
}

interface Payload {
  text: { value: string | null };
  json: { value: Json | null };
  /** Bytes of all of it, and of what is loaded. */
  size: number;
  loaded: { value: number };
  download: string;
  more(): Promise<void>;
}

const PIECE_BYTES = 4 * 1024 * 1024;

/** What is loaded of a payload: its beginning, and more as the reader asks for it. */
function usePayload(trace: string, detail: Span, field: Field): Payload {
  const first = detail.payloads[field];
  const text = useSignal<string | null>(first?.text ?? null);
  const next = useSignal<number | null>(first?.next ?? null);
  const address = (kind: string) =>
    `/api/traces/${segment(trace)}/${kind}/${field}/${segment(detail.id)}`;
  return {
    text,
    json: useComputed(() => (text.value === null ? null : parse(text.value))),
    size: first?.size ?? 0,
    loaded: useComputed(() => next.value ?? first?.size ?? 0),
    download: address("downloads"),
    more: async () => {
      if (next.value === null) return;
      const piece = await get<Piece>(
        path(address("payloads"), { offset: next.value, length: PIECE_BYTES }),
      );
      text.value += piece.text;
      next.value = piece.next;
    },
  };
}

function PayloadView({ payload, field }: { payload: Payload; field: Field }) {
  const text = payload.text.value;
  if (text === null) return <p class="faint">none</p>;
  return (
    <>
      <div class="bar">
        <span class="faint">{bytes(payload.size)}</span>
        {MARKS.map(
          ([mark, label]) =>
            mark.test(text) && (
              <span key={label} class="label">
                {label}
              </span>
            ),
        )}
        <Rest payload={payload} field={field} />
        <a href={payload.download} download={`${field}.json`}>
          Download
        </a>
        <button type="button" onClick={() => void copy(text)}>
          Copy
        </button>
      </div>
      <div class="mono">
        {payload.json.value ? <JsonView value={payload.json.value} /> : <LongText text={text} />}
      </div>
    </>
  );
}

/** Says that not all of a payload is loaded, and loads more; nothing where it is. */
function Rest({ payload, field }: { payload: Payload; field: Field }) {
  const failed = useSignal("");
  const loaded = payload.loaded.value;
  if (loaded >= payload.size) return null;
  return (
    <div class="bar">
      <span class="label">
        first {bytes(loaded)} of {field}
      </span>
      <button
        type="button"
        onClick={() => payload.more().catch((error) => (failed.value = String(error)))}
      >
        Load more
      </button>
      {failed.value && <span class="error">{failed.value}</span>}
    </div>
  );
}

function Raw({ base }: { base: string }) {
  const text = useSignal<string | null>(null);
  useEffect(() => {
    const abort = new AbortController();
    fetch(base, { signal: abort.signal })
      .then((reply) => reply.text())
      .then((raw) => (text.value = raw))
      .catch(() => undefined);
    return () => abort.abort();
  }, [base, text]);
  if (text.value === null) return <Skeleton />;
  const json = parse(text.value);
  return (
    <div class="mono">
      {json ? <JsonView value={json} level={-1} /> : <LongText text={text.value} />}
    </div>
  );
}

function Facts({ detail }: { detail: Span }) {
  const facts: [string, string | null][] = [
    ["id", detail.id],
    ["trace", detail.trace_id],
    ["parent", detail.parent_id],
    ["start", moment(Number(BigInt(detail.start_ns) / 1_000_000n), utc.value)],
    ["start in ns", detail.start_ns],
    ["end in ns", detail.end_ns],
    ["task", detail.task_id],
    ["group", detail.group_id],
    ["agent", detail.agent],
    ["tokens in", detail.input_tokens === null ? null : whole(detail.input_tokens)],
    ["tokens out", detail.output_tokens === null ? null : whole(detail.output_tokens)],
    ["cost", detail.cost_usd === null ? null : cost(detail.cost_usd)],
  ];
  return (
    <dl class="facts">
      {facts
        .filter(([, value]) => value !== null)
        .map(([name, value]) => (
          <>
            <dt key={`${name}?`}>{name}</dt>
            <dd key={name} class="mono">
              {visible(value as string)}
            </dd>
          </>
        ))}
    </dl>
  );
}
