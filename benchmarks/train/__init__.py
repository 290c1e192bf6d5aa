# SPDX-License-Identifier: Apache-2.0
"""Trains the small captioning and question answering models that tests and documentation explain.

Each script is one command, seeded, and takes minutes on two cores; the models are in ``benchmarks/train/models``.
"""
