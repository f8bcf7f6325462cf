// What stands around every page: where one can go, whether it is live, how it looks.

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { moment } from "../lib/format.ts";
import { keyNeeded } from "../lib/http.ts";
import { all, enable, enabled, offer } from "../lib/keys.ts";
import { downSince, paused } from "../lib/live.ts";
import { go, here } from "../lib/router.ts";
import { type Theme, theme, utc } from "../lib/settings.ts";
import { Login } from "./login.tsx";

const PLACES = [
  { name: "Traces", path: "/" },
  { name: "Overview", path: "/overview" },
  { name: "Health", path: "/health" },
];
const NEXT_THEME: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };

export function Shell({ children }: { children: ComponentChildren }) {
  const help = useSignal(false);
  useEffect(
    () =>
      offer([
        { keys: "?", does: "show or hide this help", run: () => (help.value = !help.value) },
        {
          keys: ".",
          does: "pause or resume live changes",
          run: () => (paused.value = !paused.value),
        },
        { keys: "g t", does: "go to the traces", run: () => go("/") },
        { keys: "g o", does: "go to the overview", run: () => go("/overview") },
        { keys: "g h", does: "go to the server's health", run: () => go("/health") },
        { keys: "Escape", does: "go back", run: () => history.back() },
      ]),
    [help],
  );
  const path = here.value.pathname;
  return (
    <>
      <header class="top">
        <a class="name" href="/">
          everyspan
        </a>
        <nav aria-label="Pages">
          {PLACES.map((place) => (
            <a
              key={place.path}
              href={place.path}
              aria-current={path === place.path ? "page" : undefined}
            >
              {place.name}
            </a>
          ))}
        </nav>
        <button
          type="button"
          class="plain"
          aria-pressed={paused.value}
          onClick={() => (paused.value = !paused.value)}
        >
          {paused.value ? "‖ paused" : downSince.value === null ? "● live" : "○ not live"}
        </button>
        <button
          type="button"
          class="plain"
          onClick={() => (utc.value = !utc.value)}
          aria-label={`Times: ${utc.value ? "UTC" : "local"}`}
        >
          {utc.value ? "UTC" : "local"}
        </button>
        <button
          type="button"
          class="plain"
          aria-label={`Theme: ${theme.value}`}
          onClick={() => (theme.value = NEXT_THEME[theme.value])}
        >
          {{ auto: "◑", light: "○", dark: "●" }[theme.value]}
        </button>
        <button
          type="button"
          class="plain"
          aria-label="Keyboard"
          onClick={() => (help.value = true)}
        >
          ?
        </button>
      </header>
      {downSince.value !== null && (
        <div class="banner" role="status">
          not live since {moment(downSince.value, utc.value).slice(11, 19)}; trying again
        </div>
      )}
      <main>{keyNeeded.value ? <Login /> : children}</main>
      {help.value && <Help close={() => (help.value = false)} />}
    </>
  );
}

function Help({ close }: { close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="help-title">
      <div class="bar">
        <h2 id="help-title">Keyboard</h2>
        <label>
          <input
            type="checkbox"
            checked={enabled.value}
            onChange={(event) => enable(event.currentTarget.checked)}
          />{" "}
          use these keys
        </label>
        <button type="button" onClick={close}>
          Close
        </button>
      </div>
      <table>
        <tbody>
          {all().map(({ keys, does }) => (
            <tr key={keys}>
              <td>
                {keys.split(" ").map((key, n) => (
                  <kbd key={n}>{key}</kbd>
                ))}
              </td>
              <td>{does}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </dialog>
  );
}
