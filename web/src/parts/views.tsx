// Named views: a view is its query string, kept in this browser.

import { signal, useSignal } from "@preact/signals";
import { go, here } from "../lib/router.ts";
import { Menu } from "./menu.tsx";

type Views = Record<string, string>;

const views = signal<Views>(read());

export function Views() {
  const name = useSignal("");
  const save = () => {
    if (!name.value.trim()) return;
    keep({ ...views.value, [name.value.trim()]: here.value.search });
    name.value = "";
  };
  return (
    <Menu label="Views">
      {Object.entries(views.value).map(([saved, search]) => (
        <div key={saved} class="bar">
          <button type="button" class="plain" onClick={() => go(`/${search}`)}>
            {saved}
          </button>
          <button
            type="button"
            class="plain"
            aria-label={`Forget ${saved}`}
            onClick={() =>
              keep(Object.fromEntries(Object.entries(views.value).filter(([n]) => n !== saved)))
            }
          >
            ×
          </button>
        </div>
      ))}
      <form
        class="bar"
        onSubmit={(event) => {
          event.preventDefault();
          save();
        }}
      >
        <input
          aria-label="Name of this view"
          placeholder="name of this view"
          value={name.value}
          onInput={(event) => {
            name.value = event.currentTarget.value;
          }}
        />
        <button type="submit">Save</button>
      </form>
    </Menu>
  );
}

function keep(changed: Views): void {
  views.value = changed;
  localStorage.setItem("views", JSON.stringify(changed));
}

function read(): Views {
  try {
    const kept = JSON.parse(localStorage.getItem("views") ?? "{}") as Views;
    return typeof kept === "object" && kept !== null ? kept : {};
  } catch {
    return {};
  }
}
