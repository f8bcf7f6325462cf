// Whether anything is lost, and by whom: what producers say of themselves, and how the server is.

import { useEffect } from "preact/hooks";
import type { Loss, Page, Producer, Health as ServerHealth } from "../lib/api.ts";
import { useAnswer } from "../lib/ask.ts";
import { now } from "../lib/clock.ts";
import { age, bytes, duration, oneLine, toMs, visible, whole } from "../lib/format.ts";
import { segment } from "../lib/http.ts";
import { Failure, Skeleton } from "../parts/failure.tsx";

const EVERY_MS = 3000;

export function Health() {
  const producers = useAnswer<Page<Producer>>(() => "/api/producers?limit=200");
  const losses = useAnswer<Page<Loss>>(() => "/api/losses?limit=100");
  const server = useAnswer<ServerHealth>(() => "/api/health");
  useEffect(() => {
    document.title = "Health – everyspan";
    const timer = setInterval(() => {
      if (document.hidden) return;
      producers.again();
      losses.again();
      server.again();
    }, EVERY_MS);
    return () => clearInterval(timer);
  }, [producers, losses, server]);
  const failed = server.failed.value ?? producers.failed.value;
  return (
    <div class="padded">
      <h1>Health</h1>
      {failed && <Failure error={failed} retry={server.again} />}
      {server.data.value ? (
        <Server health={server.data.value} />
      ) : (
        !failed && <Skeleton lines={3} />
      )}
      <Books producers={producers.data.value?.items ?? []} />
      <section class="card">
        <h2>Losses</h2>
        {losses.data.value?.items.length ? (
          <table>
            <thead>
              <tr>
                <th>trace</th>
                <th>reason</th>
                <th class="figure">spans</th>
                <th class="figure">told</th>
              </tr>
            </thead>
            <tbody>
              {losses.data.value.items.flatMap((loss) =>
                Object.entries(loss.lost).map(([reason, spans]) => (
                  <tr key={`${loss.trace} ${loss.part} ${reason}`}>
                    <td class="mono">
                      <a href={`/traces/${segment(loss.trace)}`}>{oneLine(loss.trace_id, 40)}</a>
                    </td>
                    <td>{visible(reason)}</td>
                    <td class="figure">{whole(spans)}</td>
                    <td class="figure">{age(now.value - toMs(loss.told_ns))}</td>
                  </tr>
                )),
              )}
            </tbody>
          </table>
        ) : (
          <p class="faint">No producer has reported a loss.</p>
        )}
      </section>
    </div>
  );
}

function Books({ producers }: { producers: readonly Producer[] }) {
  return (
    <section class="card">
      <h2>Producers</h2>
      {producers.length === 0 && (
        <p class="faint">None has reported: other senders' SDKs keep no books.</p>
      )}
      {producers.map((producer) => (
        <article key={producer.id} class="producer">
          <h3>
            {oneLine(producer.service || "process", 60)}{" "}
            <span class="faint">
              {oneLine(producer.host, 40)} pid {producer.pid}
            </span>{" "}
            <span class={producer.residual === 0 ? "state-complete" : "error"}>
              residual {whole(producer.residual)}
            </span>{" "}
            <span class="faint">
              {producer.ended ? "ended" : "seen"} {age(now.value - toMs(producer.seen_ns))} ago ·{" "}
              {whole(producer.open_spans)} open
            </span>
          </h3>
          <table>
            <thead>
              <tr>
                <th>to</th>
                {[
                  "accepted",
                  "delivered",
                  "dropped",
                  "rejected",
                  "queued",
                  "in flight",
                  "spooled",
                ].map((name) => (
                  <th key={name} class="figure">
                    {name}
                  </th>
                ))}
                <th class="figure">oldest</th>
              </tr>
            </thead>
            <tbody>
              {producer.destinations.map((books) => (
                <tr key={books.name}>
                  <td>{oneLine(books.name, 60)}</td>
                  <td class="figure">{whole(books.accepted)}</td>
                  <td class="figure">{whole(books.delivered)}</td>
                  <td class="figure">
                    <Reasons counts={books.dropped} />
                  </td>
                  <td class="figure">
                    <Reasons counts={books.rejected} />
                  </td>
                  <td class="figure">{whole(books.queued)}</td>
                  <td class="figure">{whole(books.in_flight)}</td>
                  <td class="figure">{whole(books.spooled)}</td>
                  <td class="figure">
                    {books.oldest_age_s === null
                      ? "–"
                      : duration(BigInt(Math.round(books.oldest_age_s * 1e9)))}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </article>
      ))}
    </section>
  );
}

function Reasons({ counts }: { counts: Record<string, number> }) {
  const reasons = Object.entries(counts);
  if (reasons.length === 0) return <>0</>;
  return (
    <span class="error">
      {reasons.map(([reason, spans]) => (
        <div key={reason}>
          {whole(spans)} {oneLine(reason, 60)}
        </div>
      ))}
    </span>
  );
}

function Server({ health }: { health: ServerHealth }) {
  const facts: [string, string][] = [
    ["status", health.status],
    ["version", health.version],
    ["spans", whole(health.spans)],
    ["waiting to be committed", `${whole(health.waiting)}, ${bytes(health.waiting_bytes)}`],
  ];
  return (
    <section class="card">
      <h2>Server</h2>
      <dl class="facts">
        {facts.map(([name, value]) => (
          <>
            <dt key={`${name}?`}>{name}</dt>
            <dd key={name}>{value}</dd>
          </>
        ))}
      </dl>
    </section>
  );
}
