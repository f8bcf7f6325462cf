// A conversation: who said what, which tools were called with which result.

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { visible } from "../lib/format.ts";
import { jsonOf } from "../lib/json.ts";
import { callIds, type Message, type Part, resultsById } from "../lib/messages.ts";
import { formatted } from "../lib/settings.ts";
import { JsonView, LongText } from "./json_view.tsx";

/** From here on text is shown as it is, however it may be formatted. */
const FORMATTED_MAX = 150_000;

/** Messages in order; a tool's result stands with its call, where one with its id is there. */
export function MessagesView({ messages }: { messages: readonly Message[] }) {
  const results = resultsById(messages);
  const called = callIds(messages);
  return (
    <ol class="messages">
      {messages.map((message, n) => {
        const parts = message.parts.filter(
          (part) => !(part.kind === "result" && part.id !== null && called.has(part.id)),
        );
        if (parts.length === 0 && message.parts.length > 0) return null;
        return (
          <li key={n} class={`message role-${message.role}`}>
            <div class="role">
              {message.role}
              {message.name !== null && <span class="faint"> {visible(message.name)}</span>}
            </div>
            <div>
              {parts.length === 0 && <span class="faint">empty</span>}
              {parts.map((part, m) => (
                <PartView key={m} part={part} results={results} />
              ))}
            </div>
          </li>
        );
      })}
    </ol>
  );
}

function PartView({
  part,
  results,
}: {
  part: Part;
  results: Map<string, Part & { kind: "result" }>;
}) {
  switch (part.kind) {
    case "text":
      return <Prose text={part.text} />;
    case "reasoning":
      return (
        <details>
          <summary class="faint">reasoning</summary>
          <Prose text={part.text} />
        </details>
      );
    case "call": {
      const result = part.id === null ? undefined : results.get(part.id);
      return (
        <div class="call">
          <div>
            <span aria-hidden="true">⚙</span> <span class="mono">{visible(part.name)}</span>{" "}
            {part.id !== null && <span class="faint mono">{visible(part.id)}</span>}
          </div>
          <Value value={part.arguments} />
          {result ? (
            <div>
              <span class="faint">result</span> <Value value={result.value} />
            </div>
          ) : (
            <div class="faint">no result</div>
          )}
        </div>
      );
    }
    case "result":
      return (
        <div class="call">
          <span class="faint">
            result {part.name !== null && visible(part.name)} {part.id !== null && visible(part.id)}
          </span>{" "}
          <Value value={part.value} />
        </div>
      );
    case "media":
      return <Media part={part} />;
    case "other":
      return <Value value={part.value} />;
  }
}

function Value({ value }: { value: unknown }) {
  if (typeof value === "string") return <LongText text={value} />;
  return (
    <div class="mono">
      <JsonView value={jsonOf(value)} level={1} />
    </div>
  );
}

/** What the reader may see of an image or file: nothing is fetched, an embedded image on request. */
function Media({ part }: { part: Part & { kind: "media" } }) {
  const shown = useSignal(false);
  if (part.embedded !== null && shown.value)
    return <img class="media" src={part.embedded} alt={part.what} />;
  return (
    <div class="label">
      {part.what}
      {part.embedded !== null && (
        <button type="button" onClick={() => (shown.value = true)}>
          show
        </button>
      )}
      {part.address !== null && <span class="mono"> {visible(part.address.slice(0, 200))}</span>}
    </div>
  );
}

/** Text, plain or formatted as the reader chose. */
export function Prose({ text }: { text: string }) {
  const render = useSignal<((text: string) => preact.ComponentChildren) | null>(null);
  const wanted = formatted.value && text.length <= FORMATTED_MAX;
  useEffect(() => {
    if (wanted && !render.value) {
      import("./markdown.tsx").then((module) => (render.value = module.render));
    }
  }, [wanted, render]);
  if (wanted && render.value) return <div class="formatted">{render.value(text)}</div>;
  return (
    <div>
      <LongText text={text} />
    </div>
  );
}
