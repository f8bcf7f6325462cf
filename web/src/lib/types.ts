// How spans are grouped by colour and sign: the words of the SGP spans API, and finer ones that a
// span's data may hold.

export type Family = "agent" | "model" | "tool" | "retrieval" | "guardrail" | "other";

const FAMILIES = new Map<string, Family>([
  ["AGENT_TRACER", "agent"],
  ["AGENT_WORKFLOW", "agent"],
  ["TRACER", "agent"],
  ["COMPLETION", "model"],
  ["COMPLETION_INPUT", "model"],
  ["EXTERNAL_ENDPOINT", "tool"],
  ["CODE_EXECUTION", "tool"],
  ["CUSTOM", "tool"],
  ["KB_RETRIEVAL", "retrieval"],
  ["KB_INPUT", "retrieval"],
  ["RERANKING", "retrieval"],
  ["DOCUMENT_SEARCH", "retrieval"],
  ["FILE_RETRIEVAL", "retrieval"],
  ["GUARDRAIL", "guardrail"],
  ["OUTPUT_GUARDRAIL", "guardrail"],
]);

const SIGNS: Record<Family, string> = {
  agent: "◆",
  model: "✦",
  tool: "⚙",
  retrieval: "▤",
  guardrail: "⛨",
  other: "•",
};

/** The group of a span's type. */
export function family(type: string): Family {
  return FAMILIES.get(type) ?? "other";
}

/** One character for the group. */
export function signOf(type: string): string {
  return SIGNS[family(type)];
}
