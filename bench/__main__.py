"""`python -m bench` lists the benchmark suites; `python -m bench SUITE [OPTIONS]` runs one.

`python -m bench page` generates docs/benchmarks.md and its figures from the stored results.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent


def suites() -> dict[str, str]:
    """The first line of the docstring of every suite, by name; nothing is imported."""
    found = {}
    for path in sorted(HERE.glob("[!_]*.py")):
        description = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = description.partition("\n")[0]
    return found


def main(arguments: list[str]) -> int:
    known = suites()
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m bench SUITE [OPTIONS]\n\nsuites:")
        width = max(map(len, known))
        print("\n".join(f"  {name:{width}}  {line}" for name, line in known.items()))
        return 0
    name, *rest = arguments
    if name not in known:
        print(f"unknown suite {name!r}; available: {', '.join(known)}", file=sys.stderr)
        return 2
    sys.argv = [f"bench.{name}", *rest]
    importlib.import_module(f"bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
