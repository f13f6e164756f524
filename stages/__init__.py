"""The stages of the chain: one runnable script each, control flow only.

Hugging Face's libraries read their switches when they are imported, and ``python -m stages.sft``
imports them before it has read the config. So the switches are set here, as the package loads:
no telemetry, no hub. ``stage_main`` opens the hub again for a config that names a hub id, which
is why the two stages that can use it (data, import_base) import those libraries inside ``run``.
oneDNN reads its own as torch loads: what it keeps for each shape of a product in bf16, of which
training meets thousands, would come to half a gigabyte.
"""

import os

HUB_SWITCHES = {
    name: "1" for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE") if name not in os.environ
}
os.environ.update(HUB_SWITCHES)
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
