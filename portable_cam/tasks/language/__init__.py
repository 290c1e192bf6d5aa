# SPDX-License-Identifier: Apache-2.0
"""Images and text: captions, answers to questions, lines of text; explained word by word."""
