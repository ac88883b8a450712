"""Seams: the names in vLLM that pruning stands on, read from its source without importing it.

A release of vLLM is known if every seam has the signature that was recorded. `seams.json` holds the record.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greedyprune.outputs import write_text

RECORD = Path(__file__).with_name("seams.json")

_MODELS = "model_executor/models/"
_QWEN = ("__init__", "embed_multimodal", "get_mrope_input_positions")
_LAYER = ("__init__", "forward")
_PROCESSOR = ("_get_mm_fields_config", "_get_prompt_updates")
SEAMS: dict[str, list[str]] = {
    _MODELS + "llava.py": [
        "LlavaForConditionalGeneration.__init__", "LlavaForConditionalGeneration.embed_multimodal",
        "LlavaMultiModalProcessor._get_mm_fields_config", "BaseLlavaMultiModalProcessor._get_prompt_updates",
        "BaseLlavaProcessingInfo.get_max_image_tokens", "LlavaProcessingInfo", "LlavaDummyInputsBuilder",
        "_get_num_hidden_layers",
    ],
    _MODELS + "clip.py": [*(f"CLIPAttention.{name}" for name in _LAYER), "CLIPEncoderLayer.forward"],
    _MODELS + "siglip.py": [*(f"SiglipAttention.{name}" for name in _LAYER), "SiglipEncoderLayer.forward"],
    _MODELS + "qwen2_vl.py": [
        *(f"Qwen2VLForConditionalGeneration.{name}" for name in _QWEN),
        *(f"Qwen2VLMultiModalProcessor.{name}" for name in _PROCESSOR),
        "Qwen2VLProcessingInfo", "Qwen2VLDummyInputsBuilder",
        *(f"Qwen2VLProcessingInfo.{name}" for name in (
            "get_image_processor", "get_num_image_tokens", "get_max_image_tokens",
        )),
    ],
    _MODELS + "qwen2_5_vl.py": [
        *(f"Qwen2_5_VLForConditionalGeneration.{name}" for name in (*_QWEN, "recompute_mrope_positions")),
        *(f"Qwen2_5_VLMultiModalProcessor.{name}" for name in _PROCESSOR),
        "Qwen2_5_VLProcessingInfo", "Qwen2_5_VLDummyInputsBuilder",
        *(f"Qwen2_5_VisionAttention.{name}" for name in _LAYER), "Qwen2_5_VisionBlock.forward",
        "Qwen2_5_VisionPatchMerger.forward", "Qwen2_5_VisionTransformer.get_window_index_thw",
    ],
    _MODELS + "qwen3_vl.py": [
        *(f"Qwen3VLForConditionalGeneration.{name}" for name in (*_QWEN, "recompute_mrope_positions")),
        *(f"Qwen3VLMultiModalProcessor.{name}" for name in _PROCESSOR),
        "Qwen3VLProcessingInfo", "Qwen3VLDummyInputsBuilder",
    ],
    _MODELS + "interns1.py": [
        *(f"InternS1ForConditionalGeneration.{name}" for name in ("__init__", "embed_multimodal")),
        *(f"InternS1MultiModalProcessor.{name}" for name in ("_apply_hf_processor_main", *_PROCESSOR)),
        "InternS1ProcessingInfo", "InternS1ProcessingInfo.get_max_image_tokens", "InternS1DummyInputsBuilder",
    ],
    _MODELS + "gemma3_mm.py": [
        *(f"Gemma3ForConditionalGeneration.{name}" for name in ("__init__", "embed_multimodal")),
        *(f"Gemma3MultiModalProcessor.{name}" for name in ("_apply_token_matches", *_PROCESSOR)),
        "Gemma3ProcessingInfo", "Gemma3DummyInputsBuilder",
    ],
    _MODELS + "idefics3.py": [
        *(f"Idefics3ForConditionalGeneration.{name}" for name in ("__init__", "embed_multimodal")),
        *(f"Idefics3MultiModalProcessor.{name}" for name in _PROCESSOR),
        "Idefics3ProcessingInfo", "Idefics3ProcessingInfo.get_num_image_tokens", "Idefics3DummyInputsBuilder",
    ],
    _MODELS + "mistral3.py": [
        *(f"Mistral3ForConditionalGeneration.{name}" for name in ("__init__", "embed_multimodal")),
        *(f"Mistral3MultiModalProcessor.{name}" for name in _PROCESSOR),
        *(f"Mistral3ProcessingInfo.{name}" for name in ("get_num_image_tokens", "get_image_size_with_most_features")),
        "Mistral3ProcessingInfo", "Mistral3DummyInputsBuilder",
    ],
    _MODELS + "smolvlm.py": ["SmolVLMForConditionalGeneration.__init__", "SmolVLMProcessingInfo"],
    _MODELS + "interfaces.py": [
        "supports_multimodal_pruning", "supports_encoder_cudagraph", "SupportsMultiModal.get_language_model",
    ],
    "multimodal/processing/processor.py": [
        *(f"BaseMultiModalProcessor.{name}" for name in (
            "__init__", "apply", "get_dummy_mm_inputs", "_get_mm_hashes", "_get_cache_missing_items",
            "_apply_hf_processor_main", *_PROCESSOR,
        )),
        "PromptUpdate", "PromptReplacement", "PromptInsertion", "PromptUpdateDetails", "replace_token_matches",
    ],
    "multimodal/parse.py": [
        "EmbeddingItems", "DictEmbeddingItems", "ImageProcessorItems", "ImageProcessorItems.get_image_size",
    ],
    "multimodal/processing/inputs.py": ["ProcessorInputs"],
    "multimodal/inputs.py": ["MultiModalFieldConfig.batched"],
    "config/multimodal.py": ["MultiModalConfig.is_multimodal_pruning_enabled"],
    "v1/worker/gpu_model_runner.py": ["GPUModelRunner._gather_mm_embeddings", "GPUModelRunner.load_model"],
    "v1/worker/gpu/model_states/mm_pruning.py": ["MultiModalPruner.recompute", "maybe_create_mm_pruner"],
    "distributed/communication_op.py": ["tensor_model_parallel_all_gather"],
    "v1/worker/cpu_model_runner.py": ["CPUModelRunner.load_model"],
}  # fmt: skip
"""File below vllm/ -> the classes, methods and functions in it."""


@dataclass(frozen=True)
class Seam:
    """What one name looks like: its signature, and a digest of its whole definition."""

    signature: str
    body: str


@dataclass(frozen=True)
class Verdict:
    """What a release of vLLM says to the record."""

    moved: list[str]
    """The seams that are missing or have another signature, with both."""
    rewritten: list[str]
    """The seams with the same signature and another definition: run `make test-vllm` on this release."""

    @property
    def known(self) -> bool:
        """True if every seam has the recorded signature."""
        return not self.moved


def read_seams(root: Any) -> dict[str, Seam | None]:
    """The seams in a source tree, None where one is missing. `root`: the folder vllm/, a Path or a zipfile.Path."""
    found: dict[str, Seam | None] = {}
    for file, names in SEAMS.items():
        place = root.joinpath(file)
        tree = ast.parse(place.read_text(encoding="utf-8")) if place.exists() else ast.parse("")
        for name in names:
            found[f"{file}:{name}"] = _seam(_definition(tree, name))
    return found


def installed() -> Path | None:
    """The folder of the installed vLLM; None if there is none. It is not imported."""
    spec = importlib.util.find_spec("vllm")
    places = None if spec is None else spec.submodule_search_locations
    return next((Path(place) for place in places or () if (Path(place) / "__init__.py").exists()), None)


def opened(path: Path) -> Any:
    """The folder vllm/ of a wheel, of an unpacked one, or the folder itself. Raises OSError if it is none of these."""
    if path.suffix == ".whl":
        return zipfile.Path(zipfile.ZipFile(path), "vllm/")
    found = next((each for each in (path / "vllm", path) if (each / "__init__.py").exists()), None)
    if found is None:
        raise FileNotFoundError("it is no wheel, and no folder with the source of vLLM")
    return found


def recorded() -> dict[str, Seam]:
    """The seams that were recorded."""
    plain = json.loads(RECORD.read_text(encoding="utf-8"))
    return {name: Seam(*each) for name, each in plain["seams"].items()}


def record(root: Any, release: str) -> None:
    """Write the record anew, from a release on which `make test-vllm` passes."""
    seams = read_seams(root)
    missing = [name for name, seam in seams.items() if seam is None]
    if missing:
        raise ValueError(f"vLLM {release} lacks {', '.join(missing)}: take out of SEAMS what is not used any more.")
    plain = {name: [seam.signature, seam.body] for name, seam in seams.items() if seam is not None}
    text = json.dumps({"release": release, "seams": plain}, indent=1)
    write_text(RECORD, text + "\n")


def compare(root: Any) -> Verdict:
    """Hold a source tree of vLLM against the record."""
    known, found = recorded(), read_seams(root)
    moved: list[str] = []
    rewritten: list[str] = []
    for name, old in known.items():
        new = found.get(name)
        if new is None:
            moved.append(f"{name} is missing")
        elif new.signature != old.signature:
            moved.append(f"{name}: ({new.signature}), known as ({old.signature})")
        elif new.body != old.body:
            rewritten.append(name)
    return Verdict(moved, rewritten)


def _definition(tree: ast.Module, name: str) -> ast.AST | None:
    """The definition of Class.method, Class or function: the last one, which stands behind overloads."""
    node: ast.AST | None = tree
    for part in name.split("."):
        inside: list[ast.stmt] = getattr(node, "body", [])
        node = next((each for each in reversed(inside) if getattr(each, "name", None) == part), None)
    return node


def _seam(node: ast.AST | None) -> Seam | None:
    """The arguments of a function; the bases and the fields of a class."""
    if isinstance(node, ast.ClassDef):
        fields = [ast.unparse(each.target) for each in node.body if isinstance(each, ast.AnnAssign)]
        signature = f"class of {', '.join(map(ast.unparse, node.bases))}; {', '.join(fields)}"
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        signature = ", ".join(_arguments(node.args))
    else:
        return None
    return Seam(signature, hashlib.sha256(ast.unparse(node).encode()).hexdigest()[:16])


def _arguments(given: ast.arguments) -> list[str]:
    """The arguments of a function by name, in order: `self`, `*`, `vllm_config`, `**kwargs`."""
    found = [each.arg for each in (*given.posonlyargs, *given.args)]
    if given.vararg is not None or given.kwonlyargs:
        found.append("*" + (given.vararg.arg if given.vararg is not None else ""))
    found += [each.arg for each in given.kwonlyargs]
    return found + ([f"**{given.kwarg.arg}"] if given.kwarg is not None else [])
