"""What `reliability.py` does to runs, part by part: kills, faults, full disks, damaged files."""

import os

# Before numpy and torch are loaded: with one thread this process can be forked.
for _name in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{_name}_NUM_THREADS"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")
