"""Training of the bundled models: `python -m greedyprune.testbed.train llava --out folder --seed 0`.

Four stages, each resumable, in files of their own:

1. `symbols`: the decoder learns to answer from symbolic visual tokens, sums of rows of an orthonormal codebook; no
   picture is drawn.
2. `vision`: tower and projector learn to turn pictures into those tokens.
3. `answers`: all of it learns from answers alone, on pictures, with every token; no loss looks at a patch.
4. `export`: weights in half precision, with tokenizer and processor.
"""
