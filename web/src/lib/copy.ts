// Text to the clipboard, also where the browser offers none: on plain HTTP beyond this machine.

import { signal } from "@preact/signals";

/** What was copied last, for whoever cannot see it happen. */
export const copied = signal("");

/** Copy text and say so. */
export async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  copied.value = "copied";
  setTimeout(() => {
    copied.value = "";
  }, 2000);
}
