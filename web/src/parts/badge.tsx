// Whether all of a trace is here, in its sign and words.

import type { Completeness, State } from "../lib/api.ts";
import { visible } from "../lib/format.ts";

const EXPLAINED: Record<State, string> = {
  complete: "complete: every span its producers counted is stored",
  running: "running: spans are open, or a closing report is due",
  late: "late: missing spans may still be on the way",
  lost: "lost: a producer reported spans that it gave up",
  unaccounted: "unaccounted: spans are missing and nobody reported why",
  "not reported": "not reported: the sender keeps no count",
};

export function Badge({ completeness: { state, sign, words } }: { completeness: Completeness }) {
  return (
    <span class={`badge state-${state.replace(" ", "-")}`} title={EXPLAINED[state]}>
      <span aria-hidden="true">{sign}</span> <span class="unseen">{state}: </span>
      {visible(words)}
    </span>
  );
}
