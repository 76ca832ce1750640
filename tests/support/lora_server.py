"""A LoRA server for tests, as a program: a model of transformers, adapters of PEFT that it loads while it runs, OpenAI's chat.

It shares no code with the library. As vLLM it takes LoRAs below /v1 and calls them by name; as SGLang beside it, by MODEL:NAME.
``POST /control`` sets what it is (:data:`CONTROL`), see :mod:`support.model_program`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from support.model_program import Refused, serve

BASE = "base"
CONTROL = {
    "style": "vllm",
    "rank": 16,
    "most": 1_000_000,
    "unloads": True,
    "tells": "all",
    "shift": 0.0,
    "reads": 0,
}
"""What the server is: vllm, sglang, or neither; the largest rank it takes; how many answers it gives; whether it unloads; what it
tells of the tokens of an answer (all, their ids, or nothing); what it adds to their log-probabilities, and to the count of those
that it reads."""


class Model:
    """The model with the adapters loaded so far, for one request at a time."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.plain = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.peft: Any = None
        self.names: set[str] = set()
        self.control: dict[str, Any] = dict(CONTROL)
        self.asked: list[dict[str, Any]] = []

    def load(self, name: str, path: str) -> None:
        from peft import PeftModel

        sglang = self.control["style"] == "sglang"
        if name in self.names:
            said = "because it is already loaded" if sglang else "has already been loaded"
            raise Refused(400, f"The lora adapter '{name}' {said}")
        if not (Path(path) / "adapter_config.json").is_file():
            raise Refused(404, f"Loading lora {name} failed: No adapter found for {path}")
        if json.loads((Path(path) / "adapter_config.json").read_text())["r"] > self.control["rank"]:
            raise Refused(400 if sglang else 500, "LoRA rank is greater than max_lora_rank")
        if self.peft is None:
            self.peft = PeftModel.from_pretrained(self.plain, path, adapter_name=name)
        elif name not in self.peft.peft_config:
            self.peft.load_adapter(path, adapter_name=name)
        self.names.add(name)

    def unload(self, name: str) -> None:
        if name not in self.names:
            raise Refused(404, f"The lora adapter '{name}' cannot be found.")
        if not self.control["unloads"]:
            raise Refused(500, "busy")
        self.names.remove(name)  # PEFT keeps it: it cannot be without any

    def be(self, control: dict[str, Any]) -> None:
        self.control, self.asked = {**CONTROL, **control}, []

    def told(self, path: str) -> Any:
        if path == "/control":
            return {"asked": self.asked, "loaded": sorted(self.names)}
        return {"data": [{"id": name} for name in [BASE, *sorted(self.names)]]}

    def answer(self, path: str, body: dict[str, Any], headers: Mapping[str, str]) -> Any:
        root = {"vllm": "/v1/", "sglang": "/"}.get(self.control["style"], "nowhere")
        if path == "/v1/chat/completions":
            return self.chat(body)
        if path == f"{root}load_lora_adapter":
            self.load(body["lora_name"], body["lora_path"])
        elif path == f"{root}unload_lora_adapter":
            self.unload(body["lora_name"])
        else:
            raise Refused(404, {"detail": "Not Found"})
        return {}

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        import torch

        sglang = self.control["style"] == "sglang"
        called = {f"{BASE}:{name}" if sglang else name: name for name in self.names} | {BASE: ""}
        if body["model"] not in called:
            raise Refused(404, f"The model `{body['model']}` does not exist.")
        if len(self.asked) >= self.control["most"]:
            raise Refused(422, "no more")
        name = called[body["model"]]
        self.asked.append(body)
        ids = self.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        stops = [self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids("</u>")]
        how: dict[str, Any] = {"do_sample": False}
        if body["temperature"] > 1e-3:
            how = {"do_sample": True, "temperature": body["temperature"], "top_p": body["top_p"], "top_k": 0}
        model = self.plain if self.peft is None else self.peft
        if name:
            self.peft.set_adapter(name)
        torch.manual_seed(body["seed"])
        with torch.no_grad(), model.disable_adapter() if self.peft and not name else nullcontext():
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=body["max_tokens"],
                eos_token_id=stops,
                pad_token_id=0,
                **how,
            )[0, ids.shape[1] :].tolist()
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        message = {"role": "assistant", "content": text}
        choice = {"message": message, "finish_reason": "stop" if made[-1] in stops else "length"}
        tells = self.control["tells"]
        if body.get("return_token_ids") and tells != "nothing":
            choice["token_ids"] = made
        if body.get("logprobs") and tells == "all":
            with torch.no_grad(), model.disable_adapter() if self.peft and not name else nullcontext():
                whole = torch.cat([ids, torch.tensor([made])], dim=1)
                logits = model(input_ids=whole).logits[0, ids.shape[1] - 1 : -1].float().log_softmax(-1)
            logps = (logits.gather(1, torch.tensor(made)[:, None])[:, 0] + self.control["shift"]).tolist()
            choice["logprobs"] = {
                "content": [{"token": str(t), "logprob": p} for t, p in zip(made, logps, strict=True)]
            }
        read = ids.shape[1] + self.control["reads"]
        return {"choices": [choice], "usage": {"completion_tokens": len(made), "prompt_tokens": read}}


if __name__ == "__main__":
    serve(Model(sys.argv[1]))
