"""The page that stands beside an exported LoRA: what it is, and the lines that load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from paretune.models.hub import is_name


def lora_card(
    policy: str,
    preference: str,
    base_name: str,
    revision: str = "",
    prompt_end: str = "",
    chat_template: Mapping[str, Any] | None = None,
) -> str:
    """Return the ``README.md`` of a LoRA in PEFT's format.

    Args:
        policy: The name of the policy that was exported.
        preference: The preference that it serves.
        base_name: The base model as PEFT loads it: a name on the hub, or a folder.
        revision: The commit on the hub; empty where it is not known.
        prompt_end: What the last user turn has to end with; empty for most policies.
        chat_template: The arguments of the base model's chat template, with which the policy was trained.
    """
    from huggingface_hub import ModelCardData

    named = is_name(base_name)
    relation: dict[str, Any] = {"base_model_relation": "adapter"} if named else {}
    head = ModelCardData(
        base_model=base_name if named else None,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["paretune", "lora"],
        **relation,
    )
    asked = (
        f"\nEnd the last user turn with `{prompt_end}`: the policy reads the preference there.\n"
        if prompt_end
        else ""
    )
    given = "".join(f", {key}={value!r}" for key, value in (chat_template or {}).items())
    written = (
        f"\nWrite prompts with these arguments of the chat template, as in training: `{json.dumps(dict(chat_template))}` "
        "(`chat_template_kwargs` in a request to vLLM or SGLang).\n"
        if chat_template
        else ""
    )
    at = f" at the commit `{revision}`" if revision else ""
    return f"""---
{head.to_yaml()}
---

# {policy} at {preference}

A LoRA on `{base_name}`{at}, exported by paretune: the policy {policy} at the fixed preference {preference}.
{asked}{written}
```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

folder = "."  # where this file is, or the name of the repository
model = AutoPeftModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained({base_name!r})
messages = [{{"role": "user", "content": "How do I keep basil alive indoors?"}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True{given})
answer = model.generate(**prompt, max_new_tokens=160)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
```
"""
