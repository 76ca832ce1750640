"""A judge for tests, as a program behind OpenAI's chat route: it grades by length and prefers the longer of two answers.

It shares no code with the library. ``POST /control`` sets what it is (:data:`CONTROL`), see :mod:`support.model_program`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.model_program import Refused, serve

CONTROL = {"mute": "", "down": "", "first": False, "key": ""}
"""A word on which it has no opinion, one at which it breaks down, whether it prefers whatever comes first, and the key it needs."""


class Judge:
    """The judge, for one question at a time."""

    def __init__(self) -> None:
        self.control: dict[str, Any] = dict(CONTROL)
        self.asked: list[dict[str, Any]] = []

    def be(self, control: dict[str, Any]) -> None:
        self.control, self.asked = {**CONTROL, **control}, []

    def told(self, path: str) -> Any:
        return {"data": [{"id": "tiny"}]} if path == "/v1/models" else {"asked": self.asked}

    def answer(self, path: str, body: dict[str, Any], headers: Mapping[str, str]) -> Any:
        control = self.control
        if control["key"] and headers.get("authorization") != f"Bearer {control['key']}":
            raise Refused(401, "Unauthorized")
        if path != "/v1/chat/completions":
            raise Refused(404, "Not Found")
        self.asked.append(body)
        text = body["messages"][-1]["content"]
        if control["down"] and control["down"] in text:
            raise Refused(500, "down")
        said = "I cannot say." if control["mute"] and control["mute"] in text else self.opinion(text)
        message = {"role": "assistant", "content": f"I read it with care.\n{said}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return {"object": "chat.completion", "model": "tiny", "choices": [choice], "usage": usage}

    def opinion(self, text: str) -> str:
        def between(name: str) -> str:
            return text.split(f"<{name}>\n")[1].split(f"\n</{name}>")[0]

        if "<answer_A>" not in text:
            return f"Score: {len(between('answer'))}"
        first, second = len(between("answer_A")), len(between("answer_B"))
        if self.control["first"]:
            return "Verdict: A"
        return "Verdict: tie" if first == second else f"Verdict: {'A' if first > second else 'B'}"


if __name__ == "__main__":
    serve(Judge())
