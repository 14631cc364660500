"""paperkit: the library behind a book in which nine machine-learning papers run.

Each chapter has a module of its own name (``paperkit.risk_scores``, ...); what they share is the
core: ``claims``, ``data``, ``models``, ``plotting``, ``profiles`` and ``sweeps``. Importing
:mod:`paperkit` loads none of them.
"""

__version__ = "0.1.0"
