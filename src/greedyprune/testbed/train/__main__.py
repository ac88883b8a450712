"""`python -m greedyprune.testbed.train {llava,qwen,gemma} --out folder [--seed 0]` trains a model of the testbed."""

from greedyprune.extras import by_hand


def main() -> None:
    """Train. The heavy modules are imported here, so that one that is missing is told in one line."""
    from greedyprune.testbed.train.command import main as train

    train()


if __name__ == "__main__":
    by_hand(main, "testbed")
