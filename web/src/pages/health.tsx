// Whether anything is lost, and by whom: what producers say of themselves, and how the server is.

import { useEffect } from "preact/hooks";
import type { Books as BooksOf, Loss, Page, Producer, Health as ServerHealth } from "../lib/api.ts";
import { useAnswer } from "../lib/ask.ts";
import { now } from "../lib/clock.ts";
import { age, bytes, duration, oneLine, toMs, visible, whole } from "../lib/format.ts";
import { segment } from "../lib/http.ts";
import { Failure, Skeleton } from "../parts/failure.tsx";

const EVERY_MS = 3000;
const BEHIND_MAX = 10_000;

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
        <p class="faint">
          not reported: everyspan reports its books here; other senders keep none.
        </p>
      )}
      {producers.map((producer) => (
        <article key={producer.id}>
          <h3>
            {oneLine(producer.service || producer.id, 60)}{" "}
            <span class="faint">
              {oneLine(producer.host, 40)} pid {producer.pid}, {producer.ended ? "ended" : "seen"}{" "}
              {age(now.value - toMs(producer.seen_ns))} ago, {whole(producer.open_spans)} open
            </span>
          </h3>
          {producer.destinations.map((books) => (
            <Identity key={books.name} books={books} />
          ))}
        </article>
      ))}
    </section>
  );
}

/** Where all spans went that a destination accepted: the two sides are equal, or it says so. */
function Identity({ books }: { books: BooksOf }) {
  const parts: [string, number][] = [
    ["delivered", books.delivered],
    ["dropped", total(books.dropped)],
    ["rejected", total(books.rejected)],
    ["queued", books.queued],
    ["in flight", books.in_flight],
    ["spooled", books.spooled],
  ];
  const residual = parts.reduce((rest, [, spans]) => rest - spans, books.accepted);
  const reasons = [...Object.entries(books.dropped), ...Object.entries(books.rejected)];
  return (
    <div class="books">
      <strong>{oneLine(books.name, 60)}</strong>
      <p class="identity">
        <span>accepted {whole(books.accepted)}</span>
        {parts.map(([name, spans], n) => (
          <span key={name} class={isLoss(name) && spans > 0 ? "error" : undefined}>
            {n === 0 ? "=" : "+"} {name} {whole(spans)}
          </span>
        ))}
      </p>
      <p class={residual === 0 ? "faint" : "error"}>
        residual {whole(residual)}
        {books.oldest_age_s !== null &&
          `, oldest ${duration(BigInt(Math.round(books.oldest_age_s * 1e9)))}`}
      </p>
      {reasons.length > 0 && (
        <ul>
          {reasons.map(([reason, spans]) => (
            <li key={reason}>
              {visible(reason)} {whole(spans)}
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

function isLoss(name: string): boolean {
  return name === "dropped" || name === "rejected";
}

function total(counts: Record<string, number>): number {
  return Object.values(counts).reduce((sum, spans) => sum + spans, 0);
}

function Server({ health }: { health: ServerHealth }) {
  const facts: [string, string][] = [
    ["status", health.status],
    ["version", health.version],
    ["spans", whole(health.spans)],
    ["waiting to be committed", `${whole(health.waiting)}, ${bytes(health.waiting_bytes)}`],
    ["waiting to be summed up", behind(health.unsummarized)],
    ["waiting to be searched", behind(health.unindexed)],
    ["store", bytes(health.size_bytes)],
    ["free", health.free_bytes === null ? "not known" : bytes(health.free_bytes)],
  ];
  return (
    <section class="card">
      <h2>Server</h2>
      <dl class="facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

/** The server counts so far and no further. */
function behind(spans: number): string {
  return spans >= BEHIND_MAX ? `${whole(spans)} or more` : whole(spans);
}
