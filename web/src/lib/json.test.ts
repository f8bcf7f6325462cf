import assert from "node:assert/strict";
import { test } from "node:test";
import { type Json, jsonOf, parse, parseWhole, plain, summary, write } from "./json.ts";

const object = (json: Json | null) => {
  assert.equal(json?.kind, "object");
  return json as Json & { kind: "object" };
};

test("numbers keep their digits", () => {
  const json = object(parse('{"id":1152921504606846977,"big":1e400,"minus":-0}'));
  assert.deepEqual(
    json.members.map(([key, value]) => [key, summary(value)]),
    [
      ["id", "1152921504606846977"],
      ["big", "1e400"],
      ["minus", "-0"],
    ],
  );
});

test("a value means what JSON.parse makes of it", () => {
  for (const text of ['{"a":[1,"\\u00e9\\n\\"",{"b":null}],"c":true}', "[]", '"x"', " 7 ", "{}"]) {
    assert.deepEqual(JSON.parse(JSON.stringify(plain(parse(text) as Json))), JSON.parse(text));
    assert.deepEqual(JSON.parse(write(parse(text) as Json)), JSON.parse(text));
  }
});

test("text that was cut anywhere shows what there is", () => {
  const whole = '{"a":[1,"two \\u00e9",{"b":false}],"c":"end"}';
  for (let n = 1; n < whole.length; n += 1) {
    assert.equal(
      object(parse(whole.slice(0, n))).cut || n >= whole.length - 1,
      true,
      `cut at ${n}`,
    );
  }
  const json = object(parse('{"a":1,"b":"half of it'));
  assert.deepEqual(json.members[1], ["b", { kind: "text", value: "half of it", cut: true }]);
});

test("what is no JSON is none", () => {
  for (const text of ["", "x", "{a:1}", "[1 2]", '{"a":1}}', "nul", "[".repeat(5000)]) {
    assert.equal(parse(text), null, text.slice(0, 20));
  }
});

test("a key like __proto__ is a key", () => {
  const value = plain(parse('{"__proto__":{"x":1}}') as Json) as Record<string, unknown>;
  assert.deepEqual(Object.keys(value), ["__proto__"]);
});

test("a value made plain and JSON again is written as it was", () => {
  const text =
    '{"id":1152921504606846977,"one":1.0,"big":[1e400,-0,0.1,7],"s":"\\n","t":[true,null]}';
  assert.equal(write(jsonOf(plain(parse(text) as Json))), text);
});

test("what is cut off is no whole value", () => {
  for (const text of ['{"a":1', '["x', '"x', "[1,"]) assert.equal(parseWhole(text), null);
  assert.notEqual(parseWhole('{"a":[1]}'), null);
});
