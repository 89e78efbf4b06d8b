"""The table of faults: what is wrong, how it is made, and the one line and exit code that users get for it."""

from __future__ import annotations

from .faults_of_connecting import KEYS, LOGIN, SETTINGS, WAY
from .faults_of_working import ANSWERS, FILES, HANGING, SERVING

__all__ = ["FAULTS", "HANGING"]

FAULTS = (*SETTINGS, *WAY, *KEYS, *LOGIN, *ANSWERS, *FILES, *SERVING)
