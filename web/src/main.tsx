// The page: which view an address shows.

import { render } from "preact";
import { listenToKeys } from "./lib/keys.ts";
import { followLinks, here, pathAfter } from "./lib/router.ts";
import { keepSettings } from "./lib/settings.ts";
import { Compare } from "./pages/compare.tsx";
import { Conversation } from "./pages/conversation.tsx";
import { Health } from "./pages/health.tsx";
import { Overview } from "./pages/overview.tsx";
import { TracePage } from "./pages/trace.tsx";
import { Traces } from "./pages/traces.tsx";
import { Shell } from "./parts/shell.tsx";

function Page() {
  const trace = pathAfter("/traces/");
  if (trace !== null) return <TracePage key={trace} id={trace} />;
  const conversation = pathAfter("/conversations/");
  if (conversation !== null) return <Conversation key={conversation} session={conversation} />;
  switch (here.value.pathname) {
    case "/":
      return <Traces />;
    case "/overview":
      return <Overview />;
    case "/health":
      return <Health />;
    case "/compare":
      return <Compare />;
    default:
      return <p class="padded">There is no such page.</p>;
  }
}

keepSettings();
followLinks();
listenToKeys();
render(
  <Shell>
    <Page />
  </Shell>,
  document.getElementById("page") as HTMLElement,
);
