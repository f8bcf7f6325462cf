import assert from "node:assert/strict";
import { test } from "node:test";
import { type Json, jsonOf, parse, plain, write } from "./json.ts";
import { callIds, type Message, messagesOf, resultsById } from "./messages.ts";

const show = (payload: unknown, fallback: "user" | "assistant" = "user") =>
  messagesOf(payload, fallback)?.map(
    ({ role, parts }: Message) =>
      `${role}: ${parts
        .map((part) => {
          switch (part.kind) {
            case "text":
              return part.text;
            case "reasoning":
              return `(${part.text})`;
            case "call":
              return `${part.name}#${part.id}${JSON.stringify(part.arguments)}`;
            case "result":
              return `=#${part.id}${JSON.stringify(part.value)}`;
            case "media":
              return `<${part.what} ${part.embedded ?? part.address}>`;
            default:
              return "?";
          }
        })
        .join("|")}`,
  ) ?? null;

test("OpenAI chat", () => {
  assert.deepEqual(
    show({
      messages: [
        { role: "developer", content: "Be kind." },
        {
          role: "user",
          content: [
            { type: "text", text: "Hi" },
            { type: "image_url", image_url: { url: "https://x/y.png" } },
          ],
        },
        {
          role: "assistant",
          content: null,
          tool_calls: [
            { id: "c1", type: "function", function: { name: "find", arguments: '{"q":1}' } },
          ],
        },
        { role: "tool", tool_call_id: "c1", content: '{"n":2}' },
      ],
    }),
    [
      "developer: Be kind.",
      "user: Hi|<image https://x/y.png>",
      'assistant: find#c1{"q":1}',
      'tool: =#c1{"n":2}',
    ],
  );
  assert.deepEqual(show({ choices: [{ message: { role: "assistant", content: "Hello" } }] }), [
    "assistant: Hello",
  ]);
});

test("OpenAI responses", () => {
  assert.deepEqual(
    show({
      instructions: "Be brief.",
      input: [
        { role: "user", content: "Hi" },
        { type: "reasoning", summary: [{ type: "summary_text", text: "hm" }] },
        { type: "function_call", call_id: "c", name: "f", arguments: "{}" },
        { type: "function_call_output", call_id: "c", output: "ok" },
      ],
    }),
    ["system: Be brief.", "user: Hi", "assistant: (hm)", "assistant: f#c{}", 'tool: =#c"ok"'],
  );
});

test("Anthropic", () => {
  assert.deepEqual(
    show({
      system: "S",
      messages: [
        {
          role: "assistant",
          content: [
            { type: "thinking", thinking: "t" },
            { type: "tool_use", id: "u", name: "f", input: { a: 1 } },
          ],
        },
        {
          role: "user",
          content: [
            { type: "tool_result", tool_use_id: "u", content: [{ type: "text", text: "r" }] },
          ],
        },
      ],
    }),
    ["system: S", 'assistant: (t)|f#u{"a":1}', 'user: =#u[{"type":"text","text":"r"}]'],
  );
});

test("LangChain, in its three forms", () => {
  assert.deepEqual(
    show({
      messages: [
        [
          { type: "human", content: "a" },
          { type: "ai", content: "b", tool_calls: [{ name: "f", args: {}, id: "1" }] },
        ],
      ],
    }),
    ["user: a", "assistant: b|f#1{}"],
  );
  assert.deepEqual(
    show({
      messages: [
        {
          lc: 1,
          type: "constructor",
          id: ["langchain", "schema", "HumanMessage"],
          kwargs: { content: "a" },
        },
      ],
    }),
    ["user: a"],
  );
  assert.deepEqual(
    show({ generations: [[{ text: "x", message: { type: "ai", data: { content: "x" } } }]] }),
    ["assistant: x"],
  );
});

test("GenAI parts and AgentEx", () => {
  assert.deepEqual(
    show({
      messages: [
        {
          role: "assistant",
          parts: [
            { type: "text", content: "x" },
            { type: "tool_call", id: "1", name: "f", arguments: null },
          ],
        },
      ],
    }),
    ["assistant: x|f#1null"],
  );
  assert.deepEqual(
    show({
      items: [
        { type: "text", author: "user", content: "q" },
        { type: "tool_request", author: "agent", tool_call_id: "1", name: "f", arguments: {} },
        { type: "tool_response", tool_call_id: "1", name: "f", content: 3 },
      ],
    }),
    ["user: q", "assistant: f#1{}", "tool: =#13"],
  );
});

test("anything else is none", () => {
  for (const payload of [
    null,
    3,
    "text",
    {},
    [],
    { messages: "x" },
    { messages: [1] },
    { role: "pirate", content: "x" },
    { type: "text", author: {} },
  ]) {
    assert.equal(show(payload), null, JSON.stringify(payload));
  }
});

test("only images that are embedded may be shown", () => {
  const image = (url: string) =>
    show([{ role: "user", content: [{ type: "image_url", image_url: { url } }] }]);
  assert.deepEqual(image("data:image/png;base64,iVBO"), [
    "user: <image data:image/png;base64,iVBO>",
  ]);
  assert.deepEqual(image("data:image/svg+xml;base64,PHN2"), ["user: <image null>"]);
});

test("calls and results pair by id, in whatever order", () => {
  const messages = messagesOf(
    [
      { role: "tool", tool_call_id: "b", content: "2" },
      {
        role: "assistant",
        content: "",
        tool_calls: [
          { id: "a", function: { name: "f" } },
          { id: "b", function: { name: "g" } },
        ],
      },
    ],
    "user",
  ) as Message[];
  assert.deepEqual([...resultsById(messages).keys()], ["b"]);
  assert.deepEqual([...callIds(messages)], ["a", "b"]);
});

test("numbers of arguments and results are as they were written", () => {
  const text =
    '{"tool_calls":[{"id":"c","function":{"name":"f","arguments":"{\\"id\\":1152921504606846977}"}}],"role":"assistant"}';
  const [message] = messagesOf(plain(parse(text) as Json), "assistant") ?? [];
  const call = message?.parts[0];
  assert.equal(call?.kind, "call");
  assert.equal(
    call?.kind === "call" && write(jsonOf(call.arguments)),
    '{"id":1152921504606846977}',
  );
});
