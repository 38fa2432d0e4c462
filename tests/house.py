"""The syntax trees of the repository's Python files, for tests/test_house.py. Nothing is imported."""

from __future__ import annotations

import ast
import tokenize
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "modeling_unimur"
# Folders whose Python files are the product, and the names under which their modules are imported.
PRODUCT = (PACKAGE, "conversion", "benchmarks", "examples", "hub_cards")
MINI = "unimur_mini"  # a package in examples/mini

# Of named tuples and of transformers' models; a file may use them on any object.
FOREIGN_PRIVATE = {"_replace", "_no_split_modules"}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


_LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip


def count_code(path: Path) -> int:
    """Lines with code: no comments, docstrings and empty lines."""
    found = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in _LAYOUT:
                found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            found -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(found)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[parts.index(MINI) :] if MINI in parts else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in python_files(*PRODUCT)}


def _only_for_types(node: ast.If) -> bool:
    return "TYPE_CHECKING" in ast.dump(node.test)


def _import_nodes(node: ast.AST):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif not (isinstance(child, ast.If) and _only_for_types(child)):
            yield from _import_nodes(child)


@cache
def imports(path: Path) -> tuple[tuple[str, str | None, int], ...]:
    """(module, name or None, line) of every import, inside functions too; imports for type checkers are left out."""
    package = module_name(path.parent / "__init__.py").split(".")
    found = []
    for node in _import_nodes(tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None, node.lineno) for alias in node.names]
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        found += [(module, alias.name, node.lineno) for alias in node.names]
    return tuple(found)


@cache
def arrows() -> dict[str, set[str]]:
    """The modules of the package that each module of the package imports."""
    known = modules()
    found = {name: set() for name in known if name.split(".")[0] == PACKAGE}
    for importer in found:
        for module, name, _ in imports(known[importer]):
            target = f"{module}.{name}" if name and f"{module}.{name}" in known else module
            if target in found and target != importer:
                found[importer].add(target)
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_imports() -> set[str]:
    """`module: name` for each private name that a module imports from another one of the repository."""
    found = set()
    for path in python_files(*PRODUCT):
        for module, name, _ in imports(path):
            if module.split(".")[0] in (*PRODUCT, MINI) and any(map(is_private, [*module.split("."), name or ""])):
                found.add(f"{module_name(path)}: {module}.{name}")
    return found


def _defined_privates(path: Path) -> set[str]:
    """Private functions, methods, classes, and attributes that a file sets."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def _is_self(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id in ("self", "cls")) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("super", "type")
    )


def private_uses() -> set[str]:
    """`module: name` for each private attribute of another object that only other files of the repository define."""
    files = python_files(*PRODUCT)
    homes = defaultdict(set)
    for path in files:
        for name in _defined_privates(path):
            homes[name].add(path)
    return {
        f"{module_name(path)}: {node.attr}"
        for path in files
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and is_private(node.attr)
        and node.attr not in FOREIGN_PRIVATE
        and not _is_self(node.value)
        and homes[node.attr]
        and path not in homes[node.attr]
    }


def code_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are code: no blank lines, comments, docstrings and imports."""
    left_out: set[int] = set()
    for node in ast.walk(tree(path)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if (is_text and isinstance(node.value.value, str)) or isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out.update(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    return [
        (number, " ".join(line.split()))
        for number, line in lines
        if number not in left_out and line.strip() and not line.strip().startswith("#")
    ]


def equal_places(length: int, *folders: str) -> dict[str, list[str]]:
    """Pairs of modules, `a = b`, that share `length` consecutive code lines, with the places where they do."""
    first: dict[tuple[str, ...], tuple[Path, int]] = {}
    found = defaultdict(list)
    for path in python_files(*folders):
        lines = code_lines(path)
        for start in range(len(lines) - length + 1):
            window = tuple(text for _, text in lines[start : start + length])
            place = (path, lines[start][0])
            if window in first:
                pair = " = ".join(sorted((module_name(first[window][0]), module_name(path))))
                found[pair].append(f"{relative(first[window][0])}:{first[window][1]} and {relative(path)}:{place[1]}")
            else:
                first[window] = place
    return dict(found)


def matched_texts(folder: str) -> list[tuple[str, str]]:
    """(place, text) of each literal that is passed as `match=`."""
    found = []
    for path in python_files(folder):
        for node in ast.walk(tree(path)):
            for keyword in getattr(node, "keywords", ()):
                if getattr(keyword, "arg", None) == "match":
                    constants = (part for part in ast.walk(keyword.value) if isinstance(part, ast.Constant))
                    text = "".join(str(part.value) for part in constants)
                    found.append((f"{relative(path)}:{node.lineno}", text))
    return found


def _exported(package: Path) -> dict[str, str]:
    """Module by name of what a package's `__init__.py` imports, or names in its table `_WHERE`."""
    found = {name: module for module, name, _ in imports(package) if name}
    for node in tree(package).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "_WHERE" for target in node.targets):
            table = ast.literal_eval(node.value)
            found |= {name: f"{module_name(package)}.{module}" for name, module in table.items()}
    return found


def tested_modules() -> set[str]:
    """Modules that a test file imports, itself or through a package, or is named after (`test_NAME...py`)."""
    known, found = modules(), set()
    files = [path for path in python_files("tests") if path.name.startswith("test_")]
    for path in files:
        for module, name, _ in imports(path):
            if name and f"{module}.{name}" in known:
                found.add(f"{module}.{name}")
            elif module in known and known[module].name == "__init__.py":
                found.add(_exported(known[module]).get(name or "", module))
            else:
                found.add(module)
    stems = {path.stem.removeprefix("test_") for path in files}
    for module in known:
        name = module.rpartition(".")[2]
        if any(stem == name or stem.startswith(f"{name}_") for stem in stems):
            found.add(module)
    return found
