"""The facts of the model that training needs, and the loss of answers over a large vocabulary."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from greedyprune.testbed.layout import SIZES
from greedyprune.testbed.train.gemma.wording import English
from greedyprune.testbed.train.models import Llava
from greedyprune.testbed.train.packing import IGNORED, Packed, Wording


@dataclass(frozen=True)
class Gemma(Llava):
    """The bundled model's tower, frozen, and a decoder whose layers may have two kinds of attention."""

    english: English

    @classmethod
    def of(cls, processor: Any) -> "Gemma":
        """That of a model with this processor."""
        tokens = processor.tokenizer
        return cls(SIZES[:1], (tokens.bos_token_id,), (), (), tokens.eos_token_id, (), English(tokens))

    @property
    def wording(self) -> Wording:
        """English sentences."""
        return self.english

    def see(self, model: Any, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        """The visual tokens; no gradient reaches the tower. (b, 3, h, w) -> None, (b, n, d)"""
        projector = model.model.multi_modal_projector
        with torch.no_grad():
            rows = model.model.vision_tower(pixels.to(projector.linear_1.weight.dtype)).last_hidden_state[:, 1:]
        return None, projector(rows)

    def decoder_weights(self, model: Any) -> Any:
        """All weights of the text model but the embeddings, which are also its head."""
        for name, weight in self.decoder(model).named_parameters():
            if "embed_tokens" not in name:
                yield weight

    def masks(self, visible: Tensor) -> Any:
        """One mask for both kinds of layers: prompts are shorter than the sliding window."""
        return {"full_attention": visible, "sliding_attention": visible}


class Answers:
    """The tokens of all answers, and losses of answers among them or among all words.

    Learning is faster if only the tokens of answers compete. But then nothing forbids the others, and `generate` would
    wander off: so later the loss is that among all words.
    """

    def __init__(self, model: Any, english: English) -> None:
        self.head: Tensor = model.lm_head.weight
        self.ids = torch.tensor(english.vocabulary(), device=self.head.device)
        self.place = torch.full((self.head.shape[0],), -1, device=self.head.device)
        self.place[self.ids] = torch.arange(len(self.ids), device=self.head.device)

    def losses(self, states: Tensor, packed: Packed) -> Tensor:
        """The cross-entropy among the tokens of answers, at each token of an answer; 0 elsewhere.

        (b, length, d) -> (b, length)
        """
        targets = packed.targets.to(states.device)
        there = targets != IGNORED
        found = torch.zeros(targets.shape, device=states.device)
        logits = states[there].to(self.head.dtype) @ self.head[self.ids].T
        found[there] = cross_entropy(logits.float(), self.place[targets[there]], reduction="none")
        return found

    def loss_among_all(self, states: Tensor, packed: Packed, most: int = 64) -> Tensor:
        """The mean cross-entropy among all words, at no more than `most` tokens of answers. (b, length, d) -> ()"""
        targets = packed.targets.to(states.device)
        there = (targets != IGNORED).nonzero()
        rows, columns = there[torch.randperm(len(there))[:most].to(there.device)].unbind(1)
        logits = states[rows, columns].to(self.head.dtype) @ self.head.T
        return cross_entropy(logits.float(), targets[rows, columns])

    def told(self, states: Tensor) -> Tensor:
        """The likeliest token of an answer at every place, as an id. (b, length, d) -> (b, length)"""
        return self.ids[(states.to(self.head.dtype) @ self.head[self.ids].T).argmax(-1)]
