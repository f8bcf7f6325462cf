// Requests to the server's query API.

import { signal } from "@preact/signals";

/** The server asks for a key that this browser has not given. */
export const keyNeeded = signal(false);

/** Why an answer is not there: what a person needs to know, and the id the server's log has. */
export class RequestFailed extends Error {
  readonly status: number;
  readonly requestId: string | null;

  constructor(status: number, message: string, requestId: string | null) {
    super(message);
    this.status = status;
    this.requestId = requestId;
  }
}

type Parameters = Record<string, string | number | boolean | readonly string[] | null | undefined>;

/** The address of a query, without what is null, undefined or empty. */
export function path(base: string, parameters: Parameters = {}): string {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value === null || value === undefined || value === "") continue;
    for (const one of Array.isArray(value) ? value : [value]) pairs.append(name, String(one));
  }
  const text = pairs.toString();
  return text ? `${base}?${text}` : base;
}

/** One path segment: an id may hold anything. */
export const segment = encodeURIComponent;

/** The answer to a query, or `RequestFailed`. */
export async function get<T>(address: string, signal?: AbortSignal): Promise<T> {
  return (await send("GET", address, undefined, signal)) as T;
}

/** Change something on the server. */
export async function post<T>(address: string, body: unknown): Promise<T> {
  return (await send("POST", address, body)) as T;
}

/** Remove something from the server. */
export async function remove(address: string): Promise<void> {
  await send("DELETE", address);
}

async function send(
  method: string,
  address: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<unknown> {
  let reply: Response;
  try {
    reply = await fetch(address, {
      method,
      headers: {
        accept: "application/json",
        ...(body ? { "content-type": "application/json" } : {}),
      },
      ...(body ? { body: JSON.stringify(body) } : {}),
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new RequestFailed(0, "the server cannot be reached", null);
  }
  const requestId = reply.headers.get("x-request-id");
  if (reply.status === 401) keyNeeded.value = true;
  if (!reply.ok) {
    const said = (await reply.json().catch(() => null)) as { message?: unknown } | null;
    const message = typeof said?.message === "string" ? said.message : `status ${reply.status}`;
    throw new RequestFailed(reply.status, message, requestId);
  }
  return reply.status === 204 ? null : reply.json();
}
