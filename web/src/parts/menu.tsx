// A button that opens a list of actions.

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";

export function Menu({ label, children }: { label: string; children: ComponentChildren }) {
  const open = useSignal(false);
  const own = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const close = (event: Event) => {
      if (!own.current?.contains(event.target as Node)) open.value = false;
    };
    addEventListener("pointerdown", close);
    return () => removeEventListener("pointerdown", close);
  }, [open]);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || !open.value) return;
    event.stopPropagation();
    open.value = false;
    own.current?.querySelector("button")?.focus();
  };
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: hears Escape on behalf of its buttons
    <div class="menu" ref={own} onKeyDown={onKeyDown}>
      <button
        type="button"
        aria-expanded={open.value}
        onClick={() => {
          open.value = !open.value;
        }}
      >
        {label} <span aria-hidden="true">▾</span>
      </button>
      {open.value && (
        // biome-ignore lint/a11y/noStaticElementInteractions: closes after its buttons were pressed
        // biome-ignore lint/a11y/useKeyWithClickEvents: a pressed key arrives as a click
        <div
          onClick={(event) => {
            if ((event.target as Element).closest("button")) open.value = false;
          }}
        >
          {children}
        </div>
      )}
    </div>
  );
}
