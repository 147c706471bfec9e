"""``python -m shapley_cuda.cli``, which is what torchrun can start."""

from . import app

if __name__ == "__main__":
    app(prog_name="shapley-cuda")
