// The server asks for a key: it is exchanged for a cookie that no script can read.

import { useSignal } from "@preact/signals";
import { keyNeeded, post, RequestFailed } from "../lib/http.ts";

export function Login() {
  const key = useSignal("");
  const failed = useSignal("");
  const login = async () => {
    try {
      await post("/api/login", { key: key.value });
      keyNeeded.value = false;
    } catch (error) {
      failed.value = error instanceof RequestFailed ? error.message : String(error);
    }
    key.value = "";
  };
  return (
    <form
      class="padded"
      onSubmit={(event) => {
        event.preventDefault();
        void login();
      }}
    >
      <h1>A key is needed</h1>
      <p>
        Made on the server's machine with <code class="mono">everyspan keys create</code>.
      </p>
      <div class="bar">
        <input
          type="password"
          autocomplete="current-password"
          aria-label="Key"
          value={key.value}
          onInput={(event) => {
            key.value = event.currentTarget.value;
          }}
        />
        <button type="submit">Open</button>
      </div>
      {failed.value && (
        <p class="error" role="alert">
          {failed.value}
        </p>
      )}
    </form>
  );
}
