"""A chat completions API on loopback, for programs of this folder: answers what it is told to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "gpt-4o-2024-08-06"
USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}


class FakeOpenAI:
    """Answers the n-th request with the n-th message; `base_url` is where."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        answers = iter(messages)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                message = {"role": "assistant", "content": None, **next(answers)}
                calls = message.get("tool_calls")
                choice = {
                    "index": 0,
                    "message": message,
                    "finish_reason": "tool_calls" if calls else "stop",
                }
                body = {
                    "id": "chatcmpl-1",
                    "object": "chat.completion",
                    "created": 1_767_323_045,
                    "model": MODEL,
                    "choices": [choice],
                    "usage": USAGE,
                }
                text = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"


def tool_call(name: str, **arguments: object) -> dict[str, Any]:
    """Return a message that calls a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
