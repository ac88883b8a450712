"""Batch: one answer for every row of a folder of images, a JSONL file or a Parquet file, in one process or on Ray.

A source gives rows, an `Answerer` answers them with a pruned model, and a journal holds what is done, so that a run
which was killed goes on where it stopped. `greedyprune batch` is this from the command line.

    source = open_source(Path("pages.jsonl"))
    job = Job(partial(greedyprune.testbed.load, "llava"), Policy("soft_greedyprune", "25%"), root=source.root)
    done = run(source, Path("answers.jsonl"), job)
    print(done.rows, done.failed)
"""

from greedyprune.batch.answerer import Answerer as Answerer
from greedyprune.batch.answerer import Job as Job
from greedyprune.batch.loop import Done as Done
from greedyprune.batch.loop import run as run
from greedyprune.batch.rows import Row as Row
from greedyprune.batch.rows import row_of as row_of
from greedyprune.batch.sources import Source as Source
from greedyprune.batch.sources import open_source as open_source
