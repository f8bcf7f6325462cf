// JSON as it was written: numbers keep their digits (2^60+1, 1e400), keys their order and repeats,
// and text that was cut off shows what there is of it.

export type Json =
  | { kind: "text"; value: string; cut: boolean }
  | { kind: "number"; text: string }
  | { kind: "word"; text: string }
  | { kind: "object"; members: [string, Json][]; cut: boolean }
  | { kind: "array"; items: Json[]; cut: boolean };

/** Levels beyond which text is shown as it stands. */
export const DEPTH_MAX = 500;

/** The value that `text` holds or begins with; null where it is no JSON. */
export function parse(text: string): Json | null {
  const parser = new Parser(text);
  try {
    const value = parser.value(0);
    return parser.atEnd() ? value : null;
  } catch {
    return null;
  }
}

/** The value that all of `text` is; null where it is no JSON, or cut off. */
export function parseWhole(text: string): Json | null {
  const json = parse(text);
  return json && "cut" in json && json.cut ? null : json;
}

/** A number that JavaScript would write with other digits: 2^60+1, 1.0, 1e400. */
export class Written {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** A value as plain objects, arrays and scalars; `jsonOf` is its reverse. */
export function plain(json: Json): unknown {
  switch (json.kind) {
    case "text":
      return json.value;
    case "number":
      return `${Number(json.text)}` === json.text ? Number(json.text) : new Written(json.text);
    case "word":
      return json.text === "true" ? true : json.text === "false" ? false : null;
    case "array":
      return json.items.map(plain);
    case "object": {
      const made: Record<string, unknown> = Object.create(null);
      for (const [key, value] of json.members) made[key] = plain(value);
      return made;
    }
  }
}

/** A plain value as JSON; what JSON has no word for is null. */
export function jsonOf(value: unknown): Json {
  if (typeof value === "string") return { kind: "text", value, cut: false };
  if (value instanceof Written) return { kind: "number", text: value.text };
  if (typeof value === "number") return { kind: "number", text: `${value}` };
  if (Array.isArray(value)) return { kind: "array", items: value.map(jsonOf), cut: false };
  if (typeof value === "object" && value !== null) {
    const members = Object.entries(value).map(([key, held]): [string, Json] => [key, jsonOf(held)]);
    return { kind: "object", members, cut: false };
  }
  return { kind: "word", text: `${value ?? null}` };
}

/** JSON as text, its numbers as they were written. */
export function write(value: Json): string {
  switch (value.kind) {
    case "text":
      return JSON.stringify(value.value);
    case "number":
    case "word":
      return value.text;
    case "array":
      return `[${value.items.map(write).join(",")}]`;
    case "object":
      return `{${value.members.map(([key, held]) => `${JSON.stringify(key)}:${write(held)}`).join(",")}}`;
  }
}

/** What a value holds, on one line. */
export function summary(json: Json): string {
  switch (json.kind) {
    case "text":
      return JSON.stringify(json.value);
    case "number":
    case "word":
      return json.text;
    case "array":
      return json.items.length === 0 ? "[]" : `[${json.items.length}${json.cut ? "+" : ""}]`;
    case "object":
      return json.members.length === 0 ? "{}" : `{${json.members.length}${json.cut ? "+" : ""}}`;
  }
}

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const WORD = /true|false|null/y;
const PLAIN_TEXT = /[^"\\]*/y;
const ESCAPES: Record<string, string> = {
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
};

class Parser {
  private at = 0;
  private readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  atEnd(): boolean {
    this.space();
    return this.at >= this.text.length;
  }

  value(depth: number): Json {
    if (depth > DEPTH_MAX) throw new Error("too deep");
    this.space();
    const c = this.text[this.at];
    if (c === '"') {
      const [value, cut] = this.string();
      return { kind: "text", value, cut };
    }
    if (c === "{") return this.object(depth);
    if (c === "[") return this.array(depth);
    const number = this.match(NUMBER);
    if (number) return { kind: "number", text: number };
    const word = this.match(WORD);
    if (word) return { kind: "word", text: word };
    throw new Error("no JSON");
  }

  private object(depth: number): Json {
    const members: [string, Json][] = [];
    this.at += 1;
    for (;;) {
      this.space();
      if (this.ended()) return { kind: "object", members, cut: true };
      if (this.take("}")) return { kind: "object", members, cut: false };
      if (members.length > 0 && !this.take(",")) throw new Error("no JSON");
      this.space();
      if (this.ended()) return { kind: "object", members, cut: true };
      if (this.text[this.at] !== '"') throw new Error("no JSON");
      const [key, cut] = this.string();
      this.space();
      if (cut || this.ended()) return { kind: "object", members, cut: true };
      if (!this.take(":")) throw new Error("no JSON");
      const value = this.valueOrCut(depth);
      if (value === null) return { kind: "object", members, cut: true };
      members.push([key, value]);
    }
  }

  private array(depth: number): Json {
    const items: Json[] = [];
    this.at += 1;
    for (;;) {
      this.space();
      if (this.ended()) return { kind: "array", items, cut: true };
      if (this.take("]")) return { kind: "array", items, cut: false };
      if (items.length > 0 && !this.take(",")) throw new Error("no JSON");
      const value = this.valueOrCut(depth);
      if (value === null) return { kind: "array", items, cut: true };
      items.push(value);
    }
  }

  /** A value; null where the text ends before one, or within a word or number. */
  private valueOrCut(depth: number): Json | null {
    this.space();
    if (this.ended()) return null;
    const start = this.at;
    try {
      const value = this.value(depth + 1);
      // What ends with the text may have gone on.
      return value.kind === "number" && this.ended() ? null : value;
    } catch (error) {
      const rest = this.text.slice(start);
      if (/^-?$/.test(rest) || ["true", "false", "null"].some((word) => word.startsWith(rest))) {
        this.at = this.text.length;
        return null;
      }
      throw error;
    }
  }

  private string(): [string, boolean] {
    this.at += 1;
    const parts: string[] = [];
    for (;;) {
      parts.push(this.match(PLAIN_TEXT) ?? "");
      if (this.ended()) return [parts.join(""), true];
      if (this.take('"')) return [parts.join(""), false];
      const c = this.text[this.at + 1];
      if (c === undefined) {
        this.at = this.text.length;
        return [parts.join(""), true];
      }
      if (c === "u") {
        const digits = this.text.slice(this.at + 2, this.at + 6);
        if (digits.length < 4) {
          this.at = this.text.length;
          return [parts.join(""), true];
        }
        parts.push(String.fromCharCode(Number.parseInt(digits, 16)));
        this.at += 6;
      } else {
        parts.push(ESCAPES[c] ?? c);
        this.at += 2;
      }
    }
  }

  private match(pattern: RegExp): string | null {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (!found) return null;
    this.at = pattern.lastIndex;
    return found[0];
  }

  private space(): void {
    this.match(SPACE);
  }

  private take(c: string): boolean {
    if (this.text[this.at] !== c) return false;
    this.at += 1;
    return true;
  }

  private ended(): boolean {
    return this.at >= this.text.length;
  }
}
