# SPDX-License-Identifier: Apache-2.0
"""Pictures and words: captions, answers to questions, lines of text. Explained word by word."""
