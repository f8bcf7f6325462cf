// A trace for use elsewhere: its spans as JSON, and programs that ask for them. Keys are
// placeholders.

import { RequestFailed } from "./http.ts";
import { type Json, parse, write } from "./json.ts";

/** Spans in a page; more would make one answer of many large payloads. */
const PAGE = 500;

/** All spans of a trace with their payloads, as a JSON array; numbers as they were written. */
export async function spansAsText(trace: string): Promise<string> {
  const spans: Json[] = [];
  let after = "";
  do {
    const query = new URLSearchParams({ limit: `${PAGE}`, allow_partial_results: "true" });
    if (after) query.set("starting_after", after);
    const reply = await fetch(`/v5/spans/search?${query}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ trace_ids: [trace] }),
    });
    if (!reply.ok) throw new RequestFailed(reply.status, `status ${reply.status}`, null);
    const page = members(parse(await reply.text()));
    const items = page.get("items");
    if (items?.kind === "array") spans.push(...items.items);
    const next = page.get("next_cursor");
    after = next?.kind === "text" ? next.value : "";
  } while (after);
  return write({ kind: "array", items: spans, cut: false });
}

/** A command for a shell that asks the server at `origin` for the spans of a trace. */
export function curlOf(origin: string, trace: string): string {
  const body = JSON.stringify({ trace_ids: [trace] }).replaceAll("'", "'\\''");
  return [
    `curl -sS '${origin}/v5/spans/search?limit=1000'`,
    `-H 'content-type: application/json' -H "x-api-key: $SGP_API_KEY" -d '${body}'`,
  ].join(" \\\n  ");
}

/** A program for the SGP SDK that does so. */
export function pythonOf(origin: string, trace: string): string {
  return `import os

from scale_gp_beta import SGPClient

client = SGPClient(
    base_url="${origin}",
    api_key=os.environ.get("SGP_API_KEY", "any"),
    account_id=os.environ.get("SGP_ACCOUNT_ID", "local"),
)
for span in client.spans.search(trace_ids=[${JSON.stringify(trace)}]):
    print(span.name, span.status)
`;
}

function members(json: Json | null): Map<string, Json> {
  return new Map(json?.kind === "object" ? json.members : []);
}
