// JSON as a tree that opens on demand: text nodes only, numbers as written.

import { useSignal } from "@preact/signals";
import { visible } from "../lib/format.ts";
import { type Json, summary } from "../lib/json.ts";

const TEXT_SHOWN = 2048;
const ITEMS_SHOWN = 100;
const OPEN_LEVELS = 2;

/** A value; its first levels are open. */
export function JsonView({ value, level = 0 }: { value: Json; level?: number }) {
  switch (value.kind) {
    case "text":
      return <LongText text={value.value} cut={value.cut} quoted />;
    case "number":
      return <span class="json-number">{value.text}</span>;
    case "word":
      return <span class="json-word">{value.text}</span>;
    default:
      return <Container value={value} level={level} />;
  }
}

function Container({
  value,
  level,
}: {
  value: Json & { kind: "object" | "array" };
  level: number;
}) {
  const entries: [string, Json][] =
    value.kind === "object" ? value.members : value.items.map((item, n) => [`${n}`, item]);
  const open = useSignal(level < OPEN_LEVELS && entries.length <= ITEMS_SHOWN);
  const shown = useSignal(ITEMS_SHOWN);
  if (entries.length === 0)
    return (
      <span>
        {summary(value)}
        {value.cut && <Cut />}
      </span>
    );
  return (
    <details
      class="json"
      open={open.value}
      onToggle={(event) => (open.value = event.currentTarget.open)}
    >
      <summary>
        <span class="faint">{summary(value)}</span>
      </summary>
      {open.value && (
        <ul>
          {entries.slice(0, shown.value).map(([key, item], n) => (
            <li key={n}>
              <span class="json-key">{visible(key)}</span>:{" "}
              <JsonView value={item} level={level + 1} />
            </li>
          ))}
          {entries.length > shown.value && (
            <li>
              <button type="button" onClick={() => (shown.value += 10 * ITEMS_SHOWN)}>
                {entries.length - shown.value} more
              </button>
            </li>
          )}
          {value.cut && (
            <li>
              <Cut />
            </li>
          )}
        </ul>
      )}
    </details>
  );
}

/** Text that is folded where it is long. */
export function LongText({
  text,
  cut = false,
  quoted = false,
}: {
  text: string;
  cut?: boolean;
  quoted?: boolean;
}) {
  const whole = useSignal(false);
  const shown = whole.value || text.length <= TEXT_SHOWN ? text : text.slice(0, TEXT_SHOWN);
  return (
    <span class={quoted ? "json-text" : "prose"}>
      {quoted && '"'}
      {visible(shown)}
      {shown === text && quoted && !cut && '"'}
      {shown !== text && (
        <button type="button" onClick={() => (whole.value = true)}>
          … {(text.length - shown.length).toLocaleString("en-US")} more characters
        </button>
      )}
      {cut && shown === text && <Cut />}
    </span>
  );
}

function Cut() {
  return <span class="label">not loaded further</span>;
}
