// A conversation: the turns of one session in order, each leading to its spans.

import { useEffect } from "preact/hooks";
import type { Page, Trace } from "../lib/api.ts";
import { tokensOf } from "../lib/api.ts";
import { useAnswer } from "../lib/ask.ts";
import { cost, count, duration, moment, oneLine, toMs, visible, whole } from "../lib/format.ts";
import { path, segment } from "../lib/http.ts";
import { listen } from "../lib/live.ts";
import { utc } from "../lib/settings.ts";
import { Badge } from "../parts/badge.tsx";
import { Failure, Skeleton } from "../parts/failure.tsx";
import { Prose } from "../parts/messages_view.tsx";
import { addressOf } from "./traces.tsx";

const TURNS_MAX = 500;

export function Conversation({ session }: { session: string }) {
  const turns = useAnswer<Page<Trace>>(() =>
    path(`/api/conversations/${segment(session)}`, { limit: TURNS_MAX }),
  );
  useEffect(() => {
    document.title = `${oneLine(session, 40)} – everyspan`;
    const feed = listen(
      {},
      null,
      (data) => {
        const { items } = data as { items: Trace[] };
        if (items.some((trace) => trace.session === session)) turns.later();
      },
      turns.later,
    );
    return () => feed.close();
  }, [session, turns]);

  const items = turns.data.value?.items;
  if (turns.failed.value && !items)
    return <Failure error={turns.failed.value} retry={turns.again} />;
  if (!items) return <Skeleton />;
  const tokens = items.reduce((sum, turn) => sum + (tokensOf(turn) ?? 0), 0);
  const dollars = items.reduce((sum, turn) => sum + (turn.cost.usd ?? 0), 0);
  return (
    <div class="padded">
      <h1>Conversation</h1>
      <p class="faint">
        <span class="mono">{visible(session)}</span> · {whole(items.length)} turns · {count(tokens)}{" "}
        tokens{dollars > 0 && ` · ${cost(dollars)}`}
      </p>
      {items.length === 0 && <p>Nothing is stored of it.</p>}
      <ol class="turns">
        {items.map((turn, n) => (
          <li key={turn.id} class="card">
            <div class="bar">
              <a href={addressOf(turn)}>
                {n + 1}. {oneLine(turn.name, 80)}
              </a>
              <Badge completeness={turn.completeness} />
              <span class="faint">
                {duration(BigInt(turn.duration_ns))} ·{" "}
                {moment(toMs(turn.start_ns), utc.value).slice(0, 19)}
              </span>
            </div>
            <div class="message role-user">
              <div class="role">user</div>
              <div>
                {turn.input === null ? <span class="faint">–</span> : <Prose text={turn.input} />}
              </div>
            </div>
            <div class="message role-assistant">
              <div class="role">agent</div>
              <div>
                {turn.errors.count > 0 && (
                  <p class="error">
                    {oneLine(`${turn.errors.type ?? "Error"}: ${turn.errors.message ?? ""}`, 300)}
                  </p>
                )}
                {turn.output === null ? <span class="faint">–</span> : <Prose text={turn.output} />}
              </div>
            </div>
          </li>
        ))}
      </ol>
      {turns.data.value?.next !== null && (
        <p class="faint">The first {whole(TURNS_MAX)} turns are shown.</p>
      )}
    </div>
  );
}
