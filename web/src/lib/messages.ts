// Payloads of known shapes as a conversation: OpenAI (chat and responses), Anthropic, LangChain,
// GenAI parts, AgentEx. Whatever is not known stays JSON; nothing here changes what is stored.

import { parseWhole, plain, Written } from "./json.ts";

export type Role = "system" | "developer" | "user" | "assistant" | "tool";

export type Part =
  | { kind: "text"; text: string }
  | { kind: "reasoning"; text: string }
  | { kind: "call"; id: string | null; name: string; arguments: unknown }
  | { kind: "result"; id: string | null; name: string | null; value: unknown }
  | { kind: "media"; what: string; embedded: string | null; address: string | null }
  | { kind: "other"; value: unknown };

export interface Message {
  role: Role;
  name: string | null;
  parts: Part[];
}

type Members = Record<string, unknown>;

const ROLES = new Map<string, Role>([
  ["system", "system"],
  ["developer", "developer"],
  ["user", "user"],
  ["human", "user"],
  ["HumanMessage", "user"],
  ["HumanMessageChunk", "user"],
  ["assistant", "assistant"],
  ["ai", "assistant"],
  ["model", "assistant"],
  ["agent", "assistant"],
  ["AIMessage", "assistant"],
  ["AIMessageChunk", "assistant"],
  ["tool", "tool"],
  ["function", "tool"],
  ["ToolMessage", "tool"],
  ["SystemMessage", "system"],
]);

/** The messages of a span's input or output; null where it holds none of a known shape. */
export function messagesOf(payload: unknown, fallback: Role): Message[] | null {
  const found = list(payload, fallback, 0);
  return found && found.length > 0 ? found : null;
}

/** Calls by id, of all messages given; a call without id or twice is not among the paired. */
export function resultsById(messages: readonly Message[]): Map<string, Part & { kind: "result" }> {
  const results = new Map<string, Part & { kind: "result" }>();
  for (const message of messages) {
    for (const part of message.parts) {
      if (part.kind === "result" && part.id !== null && !results.has(part.id)) {
        results.set(part.id, part);
      }
    }
  }
  return results;
}

/** Ids of all calls in these messages. */
export function callIds(messages: readonly Message[]): Set<string> {
  const ids = new Set<string>();
  for (const { parts } of messages) {
    for (const part of parts) if (part.kind === "call" && part.id !== null) ids.add(part.id);
  }
  return ids;
}

const LIST_KEYS = ["messages", "input", "output", "generations", "choices", "items", "response"];

function list(value: unknown, fallback: Role, depth: number): Message[] | null {
  if (depth > 4) return null;
  if (Array.isArray(value)) return fromArray(value, fallback, depth);
  if (!isMembers(value)) return null;
  const one = message(value, fallback);
  if (one) return [one];
  const before = instructions(value);
  for (const key of LIST_KEYS) {
    const inner = value[key];
    if (inner === undefined || inner === null || typeof inner === "string") continue;
    const found = list(inner, fallback, depth + 1);
    if (found && found.length > 0) return [...before, ...found];
  }
  return null;
}

function fromArray(values: unknown[], fallback: Role, depth: number): Message[] | null {
  const messages: Message[] = [];
  for (const value of values) {
    const one = isMembers(value) ? message(value, fallback) : null;
    if (one) {
      messages.push(one);
      continue;
    }
    // Batches of LangChain: lists of lists; choices and generations hold a message each.
    const found = list(value, fallback, depth + 1);
    if (!found) return null;
    messages.push(...found);
  }
  return messages;
}

function instructions(value: Members): Message[] {
  const said = value["system"] ?? value["instructions"] ?? value["system_instruction"];
  if (said === undefined || said === null || said === "") return [];
  return [{ role: "system", name: null, parts: parts(said) }];
}

function message(value: Members, fallback: Role): Message | null {
  const serialized = value["kwargs"];
  const id = value["id"];
  if (value["lc"] !== undefined && isMembers(serialized) && Array.isArray(id)) {
    return message({ type: String(id.at(-1)), ...serialized, lc: undefined }, fallback);
  }
  if (isMembers(value["message"])) return message(value["message"], fallback);
  if (typeof value["type"] === "string" && isMembers(value["data"]) && ROLES.has(value["type"])) {
    return message({ ...value["data"], type: value["type"] }, fallback);
  }
  const item = responsesItem(value);
  if (item) return item;
  const role = [value["role"], value["type"], value["author"]]
    .map((said) => (typeof said === "string" ? ROLES.get(said) : undefined))
    .find((known) => known !== undefined);
  if (!role) return null;
  const content = value["content"] ?? value["parts"] ?? value["text"];
  const made = parts(content);
  for (const key of ["reasoning_content", "reasoning"]) {
    const reasoning = value[key];
    if (typeof reasoning === "string" && reasoning)
      made.unshift({ kind: "reasoning", text: reasoning });
  }
  made.push(...calls(value));
  if (typeof value["refusal"] === "string") made.push({ kind: "text", text: value["refusal"] });
  const callId = text(value["tool_call_id"]);
  if (role === "tool" && !made.some((part) => part.kind === "result")) {
    const result: Part = {
      kind: "result",
      id: callId,
      name: text(value["name"]),
      value: parsed(content ?? null),
    };
    return { role, name: text(value["name"]), parts: [result] };
  }
  if (made.length === 0 && content === undefined) return null;
  return { role, name: text(value["name"]), parts: made };
}

/** Items of OpenAI's responses API that are no messages but belong to the conversation. */
function responsesItem(value: Members): Message | null {
  switch (value["type"]) {
    case "function_call":
      return {
        role: "assistant",
        name: null,
        parts: [
          {
            kind: "call",
            id: text(value["call_id"]) ?? text(value["id"]),
            name: text(value["name"]) ?? "function",
            arguments: parsed(value["arguments"]),
          },
        ],
      };
    case "function_call_output":
      return {
        role: "tool",
        name: null,
        parts: [
          {
            kind: "result",
            id: text(value["call_id"]),
            name: null,
            value: parsed(value["output"]),
          },
        ],
      };
    case "reasoning":
      return { role: "assistant", name: null, parts: [reasoning(value)] };
    case "tool_request":
      return {
        role: "assistant",
        name: text(value["author"]),
        parts: [
          {
            kind: "call",
            id: text(value["tool_call_id"]),
            name: text(value["name"]) ?? "tool",
            arguments: parsed(value["arguments"]),
          },
        ],
      };
    case "tool_response":
      return {
        role: "tool",
        name: text(value["name"]),
        parts: [
          {
            kind: "result",
            id: text(value["tool_call_id"]),
            name: text(value["name"]),
            value: parsed(value["content"]),
          },
        ],
      };
    default:
      return null;
  }
}

function calls(value: Members): Part[] {
  const made: Part[] = [];
  const found = value["tool_calls"];
  if (Array.isArray(found)) {
    for (const call of found) {
      if (!isMembers(call)) continue;
      const called = isMembers(call["function"]) ? call["function"] : call;
      made.push({
        kind: "call",
        id: text(call["id"]) ?? text(call["tool_call_id"]),
        name: text(called["name"]) ?? "tool",
        arguments: parsed(called["arguments"] ?? called["args"] ?? null),
      });
    }
  }
  const old = value["function_call"];
  if (isMembers(old)) {
    made.push({
      kind: "call",
      id: null,
      name: text(old["name"]) ?? "function",
      arguments: parsed(old["arguments"]),
    });
  }
  return made;
}

function parts(content: unknown): Part[] {
  if (content === null || content === undefined || content === "") return [];
  if (typeof content === "string") return [{ kind: "text", text: content }];
  if (Array.isArray(content)) return content.flatMap(part);
  return part(content);
}

function part(value: unknown): Part[] {
  if (typeof value === "string") return value ? [{ kind: "text", text: value }] : [];
  if (!isMembers(value)) return [{ kind: "other", value }];
  const kind = value["type"] ?? value["part_kind"];
  switch (kind) {
    case "text":
    case "input_text":
    case "output_text":
    case "refusal": {
      const said = value["text"] ?? value["content"] ?? value["refusal"];
      return typeof said === "string" ? [{ kind: "text", text: said }] : [{ kind: "other", value }];
    }
    case "thinking":
    case "reasoning":
    case "redacted_thinking":
      return [reasoning(value)];
    case "tool_use":
    case "tool_call":
    case "server_tool_use":
    case "tool-call":
      return [
        {
          kind: "call",
          id: text(value["id"]) ?? text(value["tool_call_id"]),
          name: text(value["name"]) ?? text(value["tool_name"]) ?? "tool",
          arguments: parsed(value["input"] ?? value["arguments"] ?? value["args"] ?? null),
        },
      ];
    case "tool_result":
    case "tool_call_response":
    case "tool-return":
      return [
        {
          kind: "result",
          id: text(value["tool_use_id"]) ?? text(value["id"]) ?? text(value["tool_call_id"]),
          name: text(value["name"]),
          value: parsed(value["content"] ?? value["response"] ?? value["result"] ?? null),
        },
      ];
    case "image_url":
    case "image":
    case "input_image":
    case "audio":
    case "input_audio":
    case "file":
    case "input_file":
    case "document":
    case "blob":
    case "uri":
      return [media(String(kind), value)];
    case undefined:
      // Gemini's parts have no type.
      if (typeof value["text"] === "string") return [{ kind: "text", text: value["text"] }];
      return [{ kind: "other", value }];
    default:
      return [{ kind: "other", value }];
  }
}

function reasoning(value: Members): Part {
  const said = value["thinking"] ?? value["text"] ?? value["content"] ?? value["summary"];
  if (typeof said === "string") return { kind: "reasoning", text: said };
  if (Array.isArray(said)) {
    const texts = said.map((one) => (isMembers(one) ? text(one["text"]) : text(one)) ?? "");
    return { kind: "reasoning", text: texts.join("\n") };
  }
  return { kind: "reasoning", text: "" };
}

const EMBEDDED_IMAGE = /^data:image\/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]+$/;

function media(kind: string, value: Members): Part {
  const what = kind.replace(/^input_|_url$/g, "");
  const held = value["image_url"] ?? value["url"] ?? value["uri"] ?? value["source"];
  const address = typeof held === "string" ? held : isMembers(held) ? text(held["url"]) : null;
  let embedded = address?.startsWith("data:") ? address : null;
  const source = isMembers(held) && text(held["data"]) ? held : value;
  const data = text(source["data"]) ?? text(source["content"]);
  const mime = text(source["media_type"]) ?? text(source["mime_type"]);
  if (!embedded && data && mime) embedded = `data:${mime};base64,${data}`;
  return {
    kind: "media",
    what,
    embedded: embedded && EMBEDDED_IMAGE.test(embedded) ? embedded : null,
    address: address?.startsWith("data:") ? null : address,
  };
}

/** Arguments and results often are JSON within text. */
function parsed(value: unknown): unknown {
  if (typeof value !== "string" || !/^\s*[[{]/.test(value)) return value;
  const json = parseWhole(value);
  return json ? plain(json) : value;
}

function text(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}

function isMembers(value: unknown): value is Members {
  return (
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    !(value instanceof Written)
  );
}
