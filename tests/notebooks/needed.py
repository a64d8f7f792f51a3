"""Which cells of a notebook some of its cells need: those that make or change a name they use, and so on upwards."""

import ast
from collections.abc import Callable


def needed(cells: list, wanted: Callable[[dict], bool]) -> list:
    """Of a notebook's `cells` all that hold text, and of those with code the `wanted(cell)` and what these need."""
    kept, names_wanted = [], set()
    for cell in reversed(cells):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            made, changed, used = names(source)
            if not wanted(cell) and not (made | changed) & names_wanted:
                continue
            names_wanted = names_wanted - made | used
        kept.insert(0, cell)
    return kept


def names(source: str) -> tuple[set[str], set[str], set[str]]:
    """The names that a cell makes, those of things that it changes, and those that it needs from the cells above."""
    made, changed, used = set(), set(), set()
    for statement in ast.parse(source).body:
        loads, stores, own = set(), set(), set()
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                (loads if isinstance(node.ctx, ast.Load) else stores).add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                stores.add(node.name)
            elif isinstance(node, ast.alias):
                stores.add(node.asname or node.name)
            elif isinstance(node, ast.arg):
                own.add(node.arg)
            elif isinstance(node, ast.comprehension):
                own |= {part.id for part in ast.walk(node.target) if isinstance(part, ast.Name)}
            elif isinstance(node, ast.Subscript | ast.Attribute) and (
                isinstance(node.ctx, ast.Store) or getattr(node, "attr", "") in ("append", "extend", "update")
            ):
                changed |= {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
        if not isinstance(statement, ast.Assign | ast.AugAssign):
            own |= stores  # the names of a loop or a function's body
        used |= loads - own - made
        made |= stores
    return made, changed, used
