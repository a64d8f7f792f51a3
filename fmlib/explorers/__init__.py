"""Explorers: sliders that redraw a figure from the real, closed-form quantities; one file for each notebook.

`explorers.marginalization.target()` as the last line of a cell shows one. An explorer of one's own is
`Explorer(draw, controls)`, with controls made by `slider` and `choice`.
"""

from fmlib.explorers import (
    basics,
    codebase,
    couplings,
    discrete,
    faster,
    generators,
    geometry,
    guidance,
    inverse,
    kinetic,
    marginalization,
    reward,
)
from fmlib.explorers._explorer import FRAMES, Explorer, choice, slider

__all__ = ["FRAMES", "Explorer", "choice", "slider"]
__all__ += ["basics", "codebase", "couplings", "discrete", "faster", "generators", "geometry", "guidance"]
__all__ += ["inverse", "kinetic", "marginalization", "reward"]
