"""Exported LoRAs are loaded by PEFT alone where model and LoRA have names on the hub, from its filled cache and with no hub."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from paretune.core.files import read_json
from paretune.core.preference import Preference
from paretune.generation.generate import attached
from paretune.models.adapter import Adapter, stack
from paretune.models.language_model import load
from paretune.policies.export import export
from paretune.policies.policy import Policy
from support.hub_cache import fill, offline
from support.world import write_model

OBJECTIVES = ("short", "good")
ASKED = Preference.parse("short=0.3,good=0.7")
IDS = [[3, 7, 9, 11, 4, 6]]
SAVED = f"""
import torch
from safetensors.torch import save_file

with torch.no_grad():
    logits = model(input_ids=torch.tensor({IDS})).logits
save_file({{"logits": logits.float().contiguous()}}, "logits.safetensors")
"""


def soup(folder: Path) -> Policy:
    """Return a soup of two random adapters on the model in a folder."""
    lm = load(str(folder), "float32", "cpu")
    adapters = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        factors = {
            f"model.layers.{n}.self_attn.o_proj": (
                torch.randn(64, 2, generator=generator),
                torch.randn(2, 64, generator=generator),
            )
            for n in range(2)
        }
        adapters.append(Adapter(factors, 0.1, lm.fingerprint))
    return Policy.soup("soup", lm, OBJECTIVES, adapters)


@dataclass(frozen=True)
class Loaded:
    """An exported LoRA, and the logits by each code that loads it: of its folder, and by its name on the hub."""

    policy: Policy
    logits: dict[str, Path]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Run the code of the LoRA's card for both places, in one process that has the cache and no hub."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("loras")
    cache = folder / "cache"
    trained = fill(cache, "team/base", write_model(folder / "base"))
    later = fill(cache, "team/base", write_model(folder / "later", seed=1))
    assert (cache / "models--team--base/refs/main").read_text() == later.name != trained.name
    policy = soup(trained)
    export(policy, ASKED, folder / "lora")
    config = read_json(folder / "lora/adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("team/base", trained.name)
    fill(cache, "anna/lora", folder / "lora")

    card = (folder / "lora/README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert 'folder = "."' in code and f"from_pretrained('team/base', revision='{trained.name}')" in code
    code = code.replace("max_new_tokens=160", "max_new_tokens=4")
    program, logits = "import os\n", {}
    for given, place in (("anna/lora", "anna/lora"), ("folder", str(folder / "lora"))):
        empty = folder / f"empty-{given.replace('/', '-')}"
        empty.mkdir()
        logits[given] = empty / "logits.safetensors"
        placed = code.replace('folder = "."', f"folder = {place!r}") + SAVED
        program += f"os.chdir({str(empty)!r})\nexec({placed!r}, {{}})\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=offline(cache),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Loaded(policy, logits)


@pytest.mark.parametrize("given", ["anna/lora", "folder"])
@pytest.mark.slow
def test_the_code_of_a_loras_card_loads_it_by_name_on_the_commit_that_was_trained_on(
    given: str, loaded: Loaded
) -> None:
    found, policy = load_file(loaded.logits[given])["logits"], loaded.policy
    with torch.no_grad():
        with attached(policy.lm, stack(policy.adapters)) as steering, steering.at(policy.gates([ASKED])):
            expected = policy.lm.model(input_ids=torch.tensor(IDS)).logits
        alone = policy.lm.model(input_ids=torch.tensor(IDS)).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, alone, atol=1e-3)
