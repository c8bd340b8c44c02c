"""How the tests open the real model."""

from pathlib import Path

from agent.engine.messages import Load


def load(path: Path, *, n_ctx: int = 2048, n_seq_max: int = 8, n_batch: int = 32) -> Load:
    """One thread: the tests share the box with others.

    32 rows a step: from 64 rows on, ggml's attention on the CPU adds up in another order, and a prompt
    computed in other portions gets logits that differ in the first decimal.
    """
    return Load(
        path=str(path),
        n_ctx=n_ctx,
        n_seq_max=n_seq_max,
        n_batch=n_batch,
        n_threads=1,
        kv_type="f16",
        n_gpu_layers=0,
    )
