"""Strategic grams: phrases that steer a solution ("let's try", "that does not work"), and the tokens they stand on.

`lexicon.py` reads a list of them; `match.py` finds them in text; `mark.py` maps what was found to tokens.
"""

from cib_rl.grams.lexicon import load_grams
from cib_rl.grams.mark import mark_planning, planning_mask
from cib_rl.grams.match import GramMatcher, Match

__all__ = ["GramMatcher", "Match", "load_grams", "mark_planning", "planning_mask"]
