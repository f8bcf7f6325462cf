// No traces yet: what to run so that there are some.

import { copy } from "../lib/copy.ts";

export function Empty({ filtered }: { filtered: boolean }) {
  if (filtered) return <p class="padded faint">No trace matches. Fewer filters may show some.</p>;
  const snippet = `import everyspan

everyspan.configure("${location.origin}")

with everyspan.span("hello", input={"to": "everyspan"}) as span:
    span.output = {"said": "hi"}

everyspan.shutdown()
`;
  return (
    <section class="padded empty">
      <h2>No traces yet</h2>
      <p>
        Listening. Run this with Python, or watch an example agent with{" "}
        <code class="mono">everyspan demo</code>:
      </p>
      <pre class="mono card" id="snippet">
        {snippet}
      </pre>
      <button type="button" onClick={() => copy(snippet)}>
        Copy
      </button>
      <p class="faint">
        OpenTelemetry exporters, the SGP client and AgentEx agents may send to this address, too.
      </p>
    </section>
  );
}
