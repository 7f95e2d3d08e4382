"""The commands of `bert-tfx`, one module each: `add` declares it, `run` does it."""
