"""The pages that stand beside exported models: what each is, and the lines that load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paretune.models.hub import is_name


@dataclass(frozen=True)
class ExportFacts:
    """What a card says of an exported model.

    Attributes:
        policy: The name of the policy.
        preference: The preference that it serves.
        base_name: The base model as other programs load it: a name on the hub, or a folder.
        revision: The commit on the hub; empty where it is not known.
        prompt_end: What the last user turn has to end with; empty for most policies.
        chat_template: The arguments of the base model's chat template, with which the policy was trained.
    """

    policy: str
    preference: str
    base_name: str
    revision: str = ""
    prompt_end: str = ""
    chat_template: Mapping[str, Any] = field(default_factory=dict)


def lora_card(made: ExportFacts) -> str:
    """Return the ``README.md`` of a LoRA in PEFT's format."""
    commit = f", revision={made.revision!r}" if made.revision else ""
    loading = f"""from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

folder = "."  # where this file is, or the name of the repository
model = AutoPeftModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained({made.base_name!r}{commit})"""
    what = f"A LoRA on {_base(made)}, exported by paretune: the policy {made.policy} at the fixed preference {made.preference}."
    return _card(made, "adapter", "peft", "lora", what, loading)


def dense_card(made: ExportFacts, rounding: str) -> str:
    """Return the ``README.md`` of a whole model; ``rounding`` says how far it is from the policy."""
    loading = """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file is, or the name of the repository
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)"""
    what = (
        f"{_base(made)} with an update merged into its weights, exported by paretune: the policy {made.policy} at the fixed "
        f"preference {made.preference}.\n\n{rounding}"
    )
    return _card(made, "finetune", "transformers", "merged", what, loading)


def _base(made: ExportFacts) -> str:
    return f"`{made.base_name}`" + (f" at the commit `{made.revision}`" if made.revision else "")


def _card(made: ExportFacts, relation: str, library: str, tag: str, what: str, loading: str) -> str:
    """Return a card: its head for the hub, what the model is, how prompts are written for it, and the lines that load it."""
    from huggingface_hub import ModelCardData

    named = is_name(made.base_name)
    relations: dict[str, Any] = {"base_model_relation": relation} if named else {}
    head = ModelCardData(
        base_model=made.base_name if named else None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=["paretune", tag],
        **relations,
    )
    asked = (
        f"\nEnd the last user turn with `{made.prompt_end}`: the policy reads the preference there.\n"
        if made.prompt_end
        else ""
    )
    given = "".join(f", {key}={value!r}" for key, value in made.chat_template.items())
    written = (
        f"\nWrite prompts with these arguments of the chat template, as in training: `{json.dumps(dict(made.chat_template))}` "
        "(`chat_template_kwargs` in a request to vLLM or SGLang).\n"
        if made.chat_template
        else ""
    )
    return f"""---
{head.to_yaml()}
---

# {made.policy} at {made.preference}

{what}
{asked}{written}
```python
{loading}
messages = [{{"role": "user", "content": "How do I keep basil alive indoors?"}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True{given})
answer = model.generate(**prompt, max_new_tokens=160)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
```
"""
