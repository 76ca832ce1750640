"""A server of reward models for tests, as a program: a model of transformers behind the routes of vLLM, and one of its own.

It shares no code with the library. ``POST /control`` sets what it is (:data:`CONTROL`), see :mod:`support.model_program`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from support.model_program import Refused, serve

CONTROL = {"refuse": "", "spoil": "", "most": 1_000_000, "key": ""}
"""A word whose texts are refused, one whose scores are no numbers, how many texts are rated, and the key that is needed."""


class Model:
    """The model, for one request at a time."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.control: dict[str, Any] = dict(CONTROL)
        self.asked: list[dict[str, Any]] = []
        self.rated = 0

    def logits(self, text: str) -> list[float | None]:
        import torch

        control = self.control
        if control["refuse"] and control["refuse"] in text:
            raise Refused(400, "This model's maximum context length is 2 tokens")
        if self.rated >= control["most"]:
            raise Refused(503, "shut down")
        self.rated += 1
        if control["spoil"] and control["spoil"] in text:
            return [None, None]
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            return self.model(input_ids=ids).logits[0].tolist()

    def written(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False)

    def texts(self, body: dict[str, Any]) -> list[str]:
        if "messages" in body:
            assert body["add_generation_prompt"] is False
            return [self.written(body["messages"])]
        return body["input"]

    def pair(self, query: str, document: str) -> list[float | None]:
        return self.logits(
            self.written([{"role": "user", "content": query}, {"role": "assistant", "content": document}])
        )

    def be(self, control: dict[str, Any]) -> None:
        self.control, self.asked, self.rated = {**CONTROL, **control}, [], 0

    def told(self, path: str) -> Any:
        return {"asked": self.asked, "rated": self.rated}

    def answer(self, path: str, body: dict[str, Any], headers: Mapping[str, str]) -> Any:
        import torch

        key = self.control["key"]
        if key and headers.get("authorization") != f"Bearer {key}":
            raise Refused(401, "Unauthorized")
        self.asked.append(body)
        raw = body.get("use_activation") is False
        if path == "/classify":
            found = [self.logits(text) for text in self.texts(body)]
            entries = [
                {"probs": row if raw else torch.tensor(row).softmax(0).tolist(), "num_classes": len(row)}
                for row in found
            ]
            # vLLM answers in order; the index is what counts.
            data = [{"index": n, "label": "LABEL_0", **entry} for n, entry in enumerate(entries)]
            return {"object": "list", "data": data[::-1]}
        if path == "/score":
            pairs = zip(body["text_1"], body["text_2"], strict=True)
            return {"data": [{"index": n, "score": self.pair(*pair)[0]} for n, pair in enumerate(pairs)]}
        if path == "/rerank":
            rated = [(self.pair(body["query"], text)[0], n) for n, text in enumerate(body["documents"])]
            rated.sort(reverse=True)
            return {"results": [{"index": n, "relevance_score": value} for value, n in rated]}
        if path == "/pooling":
            rows = [self.logits(text) for text in self.texts(body)]
            return {"data": [{"index": n, "data": [[0.0, 0.0], row]} for n, row in enumerate(rows)]}
        if path == "/rate":
            return {"result": {"grade": self.pair(body["question"], body["candidate"])[1]}}
        if path == "/rate-many":
            return {
                "scores": [{"value": self.pair(q, c)[1]} for q, c in zip(body["q"], body["c"], strict=True)]
            }
        raise Refused(404, "Not Found")


if __name__ == "__main__":
    serve(Model(sys.argv[1]))
