"""The model that training starts from: the bundled vision tower, a projector, and the pretrained decoder."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from greedyprune.testbed import load
from greedyprune.testbed.layout import PATCH, SIZES
from greedyprune.testbed.questions import COLUMNS, ROWS
from greedyprune.testbed.train.gemma.wording import IMAGE, TEMPLATE, English
from greedyprune.testbed.train.labels import CHARACTERS, KINDS, PAINTS, Labels
from greedyprune.testbed.train.models import ARCHITECTURES
from greedyprune.testbed.train.vision import pictures

Arm = Literal["words", "random"]
NEW_TOKENS = 40  # of an answer, at most: a list of all objects is the longest
PICTURES = 60  # from which the projector's start is computed
RIDGE = 1e-2
FLOOR = 1e-3  # of the largest variance, which whitening adds to all
WHITENED = 12  # pictures whose patches say what whitening is


def assemble(text: Any, tokenizer: Any) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Join the bundled tower and a text model. -> a model whose projector is drawn at random, and its processor

    `text` is a causal language model, `tokenizer` its tokenizer, which must know the token `IMAGE`.
    """
    bundled, processor = load("llava")
    special: Any = tokenizer_of(tokenizer)
    config = LlavaConfig(
        vision_config=bundled.config.vision_config,
        text_config=text_config(text.config),
        image_token_index=special.convert_tokens_to_ids(IMAGE),
        image_seq_length=bundled.config.image_seq_length,
        vision_feature_layer=bundled.config.vision_feature_layer,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    inner: Any = model.model
    inner.language_model.load_state_dict(text.model.state_dict())
    inner.vision_tower.load_state_dict(bundled.model.vision_tower.state_dict())
    model.tie_weights()
    generation: Any = model.generation_config
    generation.bos_token_id, generation.eos_token_id = special.bos_token_id, special.eos_token_id
    generation.pad_token_id = special.pad_token_id
    generation.max_new_tokens = NEW_TOKENS
    start_random(model)
    made = LlavaProcessor(
        image_processor=processor.image_processor,
        tokenizer=special,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=TEMPLATE,
    )
    return model, made


def text_config(config: Any) -> Any:
    """The config of a text model without what says how its weights were stored."""
    settings = config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version"):
        settings.pop(name, None)
    return type(config)(**settings)


def tokenizer_of(tokenizer: Any) -> PreTrainedTokenizerFast:
    """The same tokenizer, padding on the left, that puts nothing in front by itself: the chat template does."""
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = None
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        unk_token=tokenizer.unk_token,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def start_random(model: Any) -> None:
    """Draw the projector at random. It shares nothing with words.

    Its first layer sees the tower's rows without their mean, whitened (with a floor), since the rows are much alike.
    Its output is scaled to the length of word embeddings.
    """
    first, second = _layers(model)
    rows = _rows(model, WHITENED)[0].flatten(0, 1).double()
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(torch.cov(rows.T))
        white = vectors * (values + FLOOR * values[-1]).rsqrt() @ vectors.T
        drawn = torch.randn(first.weight.shape, dtype=torch.float64) * first.in_features**-0.5
        first.weight.copy_(drawn @ white)
        first.bias.copy_(-(drawn @ white) @ rows.mean(0))
        nn.init.normal_(second.weight, 0, second.in_features**-0.5)
        nn.init.zeros_(second.bias)
        made = model.model.multi_modal_projector(rows.float())
        second.weight.mul_(_length_of_words(model) / made.norm(dim=-1).mean())


def start_at_words(model: Any, wording: English, count: int) -> float:
    """Fit the projector to the mean embedding of the words that name what a patch shows. -> the fit's relative error

    Its first layer holds that of the bundled model's projector, which tells what a patch shows, and random rows. Its
    second layer is the ridge regression of `count` pictures' patches onto y = mean of the embeddings of kind, colour,
    character and (by half) place, scaled to the length of a word's embedding.
    """
    first, second = _layers(model)
    bundled = load("llava")[0].model.multi_modal_projector.linear_1
    with torch.no_grad():
        own = min(bundled.out_features, first.out_features)
        first.weight[:own], first.bias[:own] = bundled.weight[:own], bundled.bias[:own]
        rows, labels = _rows(model, count)
        wanted = _named(model, wording, labels).flatten(0, 1)
        x = gelu(first(rows)).flatten(0, 1)
        x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
        clear = (labels.unclear.flatten() == 0).double()[:, None]
        normal = x.T @ (clear * x) + RIDGE * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
        fit = torch.linalg.solve(normal, x.T @ (clear * wanted.double()))
        second.weight.copy_(fit[:-1].T)
        second.bias.copy_(fit[-1])
        error = (clear * (x @ fit - wanted)).norm() / (clear * wanted).norm()
    return float(error)


def _layers(model: Any) -> tuple[nn.Linear, nn.Linear]:
    projector = model.model.multi_modal_projector
    return projector.linear_1, projector.linear_2


def _rows(model: Any, count: int) -> tuple[Tensor, Labels]:
    """The tower's rows of some pictures of the train split, and what their patches show. -> (count, n, c), labels"""
    pixels, labels, _ = pictures(ARCHITECTURES["llava"], (5, 5), count, "train")
    with torch.no_grad():
        return model.model.vision_tower(pixels).last_hidden_state[:, 1:], labels


def _length_of_words(model: Any) -> float:
    """The mean length of a word's embedding, as the decoder reads it."""
    embed = model.get_input_embeddings()
    return float(embed(torch.arange(min(2000, embed.num_embeddings))).norm(dim=-1).mean())


def _named(model: Any, wording: English, labels: Labels) -> Tensor:
    """The word embeddings of what each patch shows. -> (count, n, d)"""
    embed = model.get_input_embeddings()

    def mean(words: list[str]) -> Tensor:
        return torch.stack([embed(torch.tensor(wording.word(word))).mean(0) for word in words])

    none = torch.zeros(1, embed.embedding_dim)
    kinds, paints = mean(list(KINDS)), torch.cat([none, mean(list(PAINTS[1:]))])
    characters = torch.cat([mean(list(CHARACTERS)), none])
    width, height = (edge // PATCH for edge in SIZES[0])
    cells = torch.arange(width * height)
    thirds = (cells // width) * len(ROWS) // height * len(COLUMNS) + (cells % width) * len(COLUMNS) // width
    places = mean([f"{row} {column}" for row in ROWS for column in COLUMNS])[thirds]
    total = kinds[labels.kind] + paints[labels.colour] + characters[labels.character] + 0.5 * places
    return total / total.norm(dim=-1, keepdim=True) * _length_of_words(model)


def prepare(folder: Path, arm: Arm, text: Any, tokenizer: Any) -> float | None:
    """Write the model that training starts from. -> the relative error of the projector's start, if it starts at words

    The decoder is rounded to bfloat16, which is more precise than the weights of four to six bits in the packages.
    """
    made: tuple[Any, Any] = assemble(text, tokenizer)
    model, processor = made
    error = start_at_words(model, English(processor.tokenizer), PICTURES) if arm == "words" else None
    model.model.language_model.to(torch.bfloat16)
    model.tie_weights()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return error
