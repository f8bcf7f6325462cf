// What people think of a span: thumbs and notes, stored as assessments.

import { useSignal } from "@preact/signals";
import type { Annotation } from "../lib/api.ts";
import { useAnswer } from "../lib/ask.ts";
import { visible } from "../lib/format.ts";
import { post, RequestFailed, remove, segment } from "../lib/http.ts";

export function Annotations({ trace, span }: { trace: string; span: string }) {
  const answer = useAnswer<{ items: Annotation[] }>(
    () => `/api/traces/${segment(trace)}/annotations`,
  );
  const note = useSignal("");
  const failed = useSignal("");
  const items = (answer.data.value?.items ?? []).filter((item) => item.span_id === span);
  const change = async (doing: Promise<unknown>) => {
    try {
      await doing;
      failed.value = "";
    } catch (error) {
      failed.value = error instanceof RequestFailed ? error.message : String(error);
    }
    answer.again();
  };
  const add = (content: object) =>
    change(post("/api/annotations", { trace_id: trace, span_id: span, ...content }));
  const forget = (id: string) => change(remove(`/api/annotations/${segment(id)}`));
  const thumb = (approval: "approved" | "rejected", sign: string, name: string) => {
    const own = items.find((item) => item.approval === approval);
    return (
      <button
        type="button"
        class="plain"
        aria-label={name}
        aria-pressed={own !== undefined}
        onClick={() => void (own ? forget(own.id) : add({ kind: "approval", approval }))}
      >
        {sign}
      </button>
    );
  };
  return (
    <div class="annotations">
      <form
        class="bar"
        onSubmit={(event) => {
          event.preventDefault();
          if (note.value.trim()) void add({ kind: "comment", comment: note.value.trim() });
          note.value = "";
        }}
      >
        {thumb("approved", "👍", "good")}
        {thumb("rejected", "👎", "bad")}
        <input
          aria-label="Note"
          placeholder="Note"
          value={note.value}
          onInput={(event) => {
            note.value = event.currentTarget.value;
          }}
        />
      </form>
      {failed.value && <p class="error">{failed.value}</p>}
      {items
        .filter((item) => item.comment !== null)
        .map((item) => (
          <p key={item.id}>
            {visible(item.comment ?? "")}{" "}
            <button
              type="button"
              class="plain"
              aria-label="Remove the note"
              onClick={() => void forget(item.id)}
            >
              ×
            </button>
          </p>
        ))}
    </div>
  );
}
