#!/usr/bin/env python3
"""Makes qinfer.h from the parts under src/, and qinfer_metal.m from those in src/metal.

Starts at src/qinfer.h and replaces each quoted include by the text of that part, once, depth first in the order of appearance.
System includes and all code stay as they are. The output is the same bytes on every machine.

  tools/amalgamate.py                 write qinfer.h and qinfer_metal.m
  tools/amalgamate.py --check         compare with those that are there; exit 1 and show a difference
  tools/amalgamate.py --line -o FILE  with #line directives, so that compilers and debuggers name the parts
  tools/amalgamate.py --bundle FILE   a header with the text of stb_ds.h inside

Also refused, with exit 1: a part that includes a later layer, a cycle, a part that nobody includes, an include under a condition
(its text would be missing for the next one who includes it), a missing file.
"""
import argparse
import difflib
import pathlib
import re
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
SRC = TOP / "src"
ROOT = "qinfer.h"
LAYERS = ["api", "base", "formats", "kernels", "model", "infer", "public"]  # a layer uses itself and those before it
EXTERNAL = {"stb_ds.h"}  # quoted, but not ours
METAL = SRC / "metal"
METAL_PARTS = {"args.inc", "kernels.metal"}  # .metal becomes a C string
STB_PLACES = ["/usr/include/stb/stb_ds.h", "/usr/local/include/stb/stb_ds.h", "/opt/homebrew/include/stb/stb_ds.h"]

INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]+)"')
STB_INCLUDE = re.compile(r'\s*#\s*include\s*["<](?:stb/)?stb_ds\.h[">]')
CONDITION = re.compile(r"\s*#\s*(if|ifdef|ifndef|endif)\b")


class Problem(Exception):
    pass


def read_text(path):
    """Text of a file with \\n as the only line end, whatever the checkout made of it."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise Problem(f"{path}: no such file")
    except UnicodeDecodeError as e:
        raise Problem(f"{path}: not UTF-8: {e}")
    text = text.replace("\r\n", "\n")
    return text if text.endswith("\n") else text + "\n"


def layer_of(part):
    """Place of a part (its path below src) in LAYERS; the root stands after all."""
    if part == ROOT:
        return len(LAYERS)
    name = part.split("/")[0] if "/" in part else part[: -len(".h")]
    if name not in LAYERS:
        raise Problem(f"src/{part}: in none of the layers {', '.join(LAYERS)}")
    return LAYERS.index(name)


def resolve(part, line_no, name):
    """Path below src of what `part` includes as `name`; None for headers that are not ours."""
    if name in EXTERNAL:
        return None
    path = (SRC / part).parent.joinpath(name).resolve()
    try:
        target = path.relative_to(SRC).as_posix()
    except ValueError:
        raise Problem(f"src/{part}:{line_no}: {name} lies outside src")
    if not path.is_file():
        raise Problem(f"src/{part}:{line_no}: {name}: no such file")
    return target


def with_stb(part, lines, stb_text):
    """Lines of a part with the conditional block that looks for stb_ds.h replaced by its text."""
    depth, start, blocks = 0, 0, []
    for i, line in enumerate(lines):
        m = CONDITION.match(line)
        if m and m.group(1) != "endif":
            depth += 1
            if depth == 2:  # 1 is the include guard
                start = i
        elif m:
            depth -= 1
            if depth == 1 and any(STB_INCLUDE.match(inner) for inner in lines[start:i]):
                blocks.append((start, i + 1))
    n_includes = sum(1 for line in lines if STB_INCLUDE.match(line))
    if len(blocks) != 1 or n_includes != sum(1 for line in lines[slice(*blocks[0])] if STB_INCLUDE.match(line)):
        raise Problem(f"src/{part}: --bundle looks for one #if block in which stb_ds.h is included")
    start, end = blocks[0]
    return lines[:start] + ["// stb_ds.h, unchanged; its licence stands at its end"] + stb_text.splitlines() + lines[end:]


class Amalgamation:
    def __init__(self, line_directives=False, stb_text=None):
        self.out = []
        self.done = []       # parts in order of their text
        self.open_parts = [] # way from the root to the part being read
        self.line_directives = line_directives
        self.stb_text = stb_text

    def directive(self, line_no, part):
        if self.line_directives:
            self.out.append(f'#line {line_no} "src/{part}"')

    def add(self, part):
        self.open_parts.append(part)
        self.out.append(f"// generated from src/{part}: edit there")
        self.directive(1, part)
        lines = read_text(SRC / part).splitlines()
        if self.stb_text is not None and any(STB_INCLUDE.match(line) for line in lines):
            lines = with_stb(part, lines, self.stb_text)
        depth = 0
        for line_no, line in enumerate(lines, 1):
            condition = CONDITION.match(line)
            if condition:
                depth += -1 if condition.group(1) == "endif" else 1
            m = INCLUDE.match(line)
            target = resolve(part, line_no, m.group(1)) if m else None
            if target is None:
                self.out.append(line)
            else:
                self.include(part, line_no, target, depth)
                self.directive(line_no + 1, part)
        self.open_parts.pop()
        self.done.append(part)

    def include(self, part, line_no, target, depth):
        where = f"src/{part}:{line_no}"
        if layer_of(target) > layer_of(part):
            raise Problem(f"{where}: includes src/{target} of a later layer (order: {' < '.join(LAYERS)})")
        if target in self.open_parts:
            way = self.open_parts[self.open_parts.index(target):] + [target]
            raise Problem(f"{where}: cycle: {' -> '.join(way)}")
        if part != ROOT and depth != 1:
            raise Problem(f"{where}: include of src/{target} must stand inside the include guard and no other condition")
        if target not in self.done:
            self.add(target)


def licence_comment():
    lines = ["", "// ---- licence ----", "//"]
    for line in read_text(TOP / "LICENSE").splitlines():
        lines.append(f"// {line}".rstrip())
    return lines


def generate(line_directives=False, stb_text=None):
    a = Amalgamation(line_directives, stb_text)
    a.add(ROOT)
    unused = sorted({p.relative_to(SRC).as_posix() for p in SRC.rglob("*.h")} - set(a.done))
    if unused:
        raise Problem("parts that nobody includes: " + ", ".join("src/" + p for p in unused))
    return "\n".join(a.out + licence_comment()) + "\n"


def find_stb(given):
    places = [pathlib.Path(given)] if given else [pathlib.Path(p) for p in STB_PLACES]
    for path in places:
        if path.is_file():
            return read_text(path)
    raise Problem("stb_ds.h not found in " + ", ".join(map(str, places)) + "; pass --stb PATH, or apt-get install libstb-dev")


def check(text, path):
    """True if the file at `path` is `text`; otherwise shows where they part."""
    try:
        old = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError:
        old = ""
    if old == text:
        return True
    diff = difflib.unified_diff(old.splitlines(), text.splitlines(), str(path.name), "generated from src/", lineterm="", n=1)
    for i, line in enumerate(diff):
        if i == 40:
            print("...")
            break
        print(line)
    print(f"{path.name} is not what src/ gives: run tools/amalgamate.py (or make qinfer.h) and commit the result")
    return False


def quoted(line):
    """A line of a shader as a C string."""
    return '    "' + line.replace("\\", "\\\\").replace('"', '\\"') + '\\n"'


def generate_metal(folder, name="backend.m"):
    """Lines of a file of src/metal with those that it includes in place."""
    out = [f"// generated from src/metal/{name}: edit there"] if name.endswith(".m") else []
    for line in read_text(folder / name).splitlines():
        m = INCLUDE.match(line)
        if not m or m.group(1) not in METAL_PARTS:
            out.append(line)
            continue
        inner = generate_metal(folder, m.group(1))
        out += [quoted(text) for text in inner] if m.group(1).endswith(".metal") else inner
    return out


def write(text, path):
    """The file at `path` becomes `text`."""
    data = text.encode("utf-8")
    if not path.is_file() or path.read_bytes() != data:  # an unchanged file keeps its time, so make rebuilds nothing
        path.write_bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default=str(TOP / "qinfer.h"), help="file to write or check (default: qinfer.h)")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    parser.add_argument("--line", action="store_true", help="emit #line directives")
    parser.add_argument("--bundle", metavar="FILE", help="write FILE with the text of stb_ds.h inside")
    parser.add_argument("--stb", metavar="PATH", help="stb_ds.h to use with --bundle")
    parser.add_argument("--metal", metavar="FOLDER", help="write only the Metal file, of this folder's parts, to --output")
    args = parser.parse_args()
    try:
        if args.metal:
            write("\n".join(generate_metal(pathlib.Path(args.metal))) + "\n", pathlib.Path(args.output))
            return 0
        text = generate(args.line, find_stb(args.stb) if args.bundle else None)
        whole = METAL.is_dir() and not args.bundle and pathlib.Path(args.output) == TOP / "qinfer.h"
        metal = "\n".join(generate_metal(METAL)) + "\n" if whole else None
    except Problem as e:
        print(f"amalgamate: {e}", file=sys.stderr)
        return 1
    path = pathlib.Path(args.bundle or args.output)
    metal_path = path.parent / "qinfer_metal.m"
    if args.check:
        same = check(text, path)
        return 0 if (metal is None or check(metal, metal_path)) and same else 1
    write(text, path)
    if metal is not None:
        write(metal, metal_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
