"""The errors and warnings that the program can print, as its sources have them: the text between the
values that are put in."""
import glob
import re

# What begins an expression that ends up as an error's or a warning's text ...
_STATEMENT = re.compile(r"\bthrow \w+Error\(|\bRefuse\w*\(|\bFail\(|\bspdlog::(?:error|warn)\(")
# ... and the files whose functions also return parts of one.
_RETURNED = re.compile(r"\breturn\b")
_RETURNING = re.compile(r"/(config|config_keys|listen_address|instance|failure)\.cc$")
_LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
# What is no text: comments, and characters, of which one is the double quote.
_NO_TEXT = re.compile(r"""//[^\n]*|'(?:[^'\\]|\\.)'|("(?:[^"\\]|\\.)*")""")


def _statement_end(text, start):
    """The place of the semicolon that ends the statement."""
    depth = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[(){};]', text[start:]):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(found[0], 0)
        if depth < 0 or (found[0] == ";" and depth == 0):
            return start + found.start()
    return len(text)


def plain(text):
    """Fit to be compared: without backticks, with single spaces."""
    return " ".join(text.replace("`", "").split())


def split(text, value):
    """The pieces between the values, those of two words or more."""
    pieces = (plain(piece).strip(" ,;:()") for piece in re.split(value, text))
    return {piece for piece in pieces
            if " " in piece and len(re.findall(r"[A-Za-z]{2,}", piece)) >= 2}


def _without_comments(text):
    return _NO_TEXT.sub(lambda found: found[1] or "", text)


def _texts(code):
    """The string literals, joined as C++ joins them."""
    joined = re.sub(r'"\s*\n\s*"', "", code)
    return [literal.replace('\\"', '"') for literal in _LITERAL.findall(joined)]


def of_source(text, with_returned):
    """The pieces of the messages in one file."""
    text = _without_comments(text)
    starts = [found.start() for found in _STATEMENT.finditer(text)]
    if with_returned:
        starts += [found.start() for found in _RETURNED.finditer(text)]
    return {piece for start in starts for literal in _texts(text[start:_statement_end(text, start)])
            for piece in split(literal, r"\{[^}]*\}")}


def _sources(repository):
    for path in sorted(glob.glob(f"{repository}/exporter/**/*.cc", recursive=True)):
        with open(path, encoding="utf-8") as file:
            yield path, file.read()


def all_pieces(repository):
    """Of the whole program: piece -> the file that it stands in."""
    return {piece: path[len(repository) + 1:] for path, text in _sources(repository)
            for piece in of_source(text, bool(_RETURNING.search(path)))}


def all_texts(repository):
    """Every text in the program's sources, as one."""
    return plain("\n".join(literal for _, text in _sources(repository)
                           for literal in _texts(_without_comments(text))))


def explained(document):
    """The pieces of the messages that the document's tables have in their first column."""
    cells = re.findall(r"^\| (.*?) \| ", document, re.MULTILINE)
    return {piece for cell in cells for span in re.findall(r"`([^`]+)`", cell)
            for piece in split(span, "…")}
