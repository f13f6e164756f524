"""Takes a base that exists, GPT-2 or another causal model, instead of pretraining one.

    python -m stages.import_base configs/gpt2.yaml
    accelerate launch -m stages.import_base configs/gpt2.yaml

Reads a Hugging Face folder below ``data_root``, or downloads a hub id; writes base/: the model with
this project's special tokens, and ``imported.json`` (where it came from, what was added).
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.hugging_face import save_language_model
from pipeline.import_base import download, import_base
from pipeline.stage_context import open_stage
from stages.cli import stage_main

VERSION = 1


def run(config: RunConfig, run_folder: Path) -> None:
    """Converts and publishes ``base/``.

    Raises:
        UserError: there is no such model, it is incomplete, or it is not supported.
    """
    section = config.import_base
    assert section is not None, "the configuration pretrains its base"
    with open_stage("import_base", config, run_folder) as stage:
        if section.hub_id is not None:
            folder = download(section.hub_id)
            source = {"hub_id": section.hub_id, "revision": folder.name}
        else:
            assert section.path is not None
            folder = stage.data_root / section.path
            source = {"path": section.path}
        model, tokenizer, added = import_base(folder)
        save_language_model(model, stage.output, tokenizer)
        record = {**source, "added_tokens": added, "parameters": model.parameter_count()}
        (stage.output / "imported.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    stage_main("import_base")
