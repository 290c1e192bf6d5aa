# SPDX-License-Identifier: Apache-2.0
"""Everything there is to measure on a GPU, by one command: ``python -m benchmarks.gpu``. See ``docs/gpu.md``."""
