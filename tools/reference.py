"""How the site shows a public name: signature, what it does, arguments, result, and its source, folded.

nbdev asks for this class by the line `renderer` in settings.ini. Its own renderer writes
`order:str|None=None` on crowded lines, and what is said about an argument as a comment in code.
"""
import inspect
import re
from dataclasses import fields, is_dataclass

from fastcore.docments import docments
from nbdev.doclinks import NbdevLookup
from nbdev.showdoc import BasicMarkdownRenderer

WIDTH = 88
SHORT = {"numpy.random.": "np.random.", "numpy.": "np.", "pandas.": "pd.",
         "torch.nn.": "nn.", "torch.": "torch."}
STARS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
# A definition of more lines than this is shown by a link only: a class of the length of a page.
LONGEST_SOURCE = 60


def type_text(annotation):
    "An annotation as a person writes it: `str | None`, `np.ndarray`."
    if annotation in (inspect.Parameter.empty, None): return "None" if annotation is None else ""
    if isinstance(annotation, str): return annotation
    text = re.sub(r"\bNoneType\b", "None", inspect.formatannotation(annotation))
    return re.sub(r"\b((?:\w+\.)+)(?=\w)", module_text, text)


def module_text(found):
    "A module as pages write it; that of a class of ours says less than its name, and is left out."
    return next((short for module, short in SHORT.items() if found[1].startswith(module)), "")


def value_text(value):
    "A default as a person writes it: a function by its name, and no address of an object."
    if inspect.isroutine(value) or inspect.isclass(value): return value.__name__
    text = repr(value)
    return "..." if " at 0x" in text else text


def parameter_text(parameter):
    "A parameter as PEP 8 writes it: `k: int = 10`."
    type_, empty = type_text(parameter.annotation), inspect.Parameter.empty
    text = STARS.get(parameter.kind, "") + parameter.name + (f": {type_}" if type_ else "")
    if parameter.default is empty: return text
    equals = " = " if type_ else "="
    return text + equals + value_text(parameter.default)


def with_stars(parameters):
    "The texts of the parameters, with the bare `*` and `/` between them."
    parts, kinds = [], [parameter.kind for parameter in parameters]
    for number, parameter in enumerate(parameters):
        before = kinds[:number]
        starred = inspect.Parameter.VAR_POSITIONAL in before or inspect.Parameter.KEYWORD_ONLY in before
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred: parts.append("*")
        parts.append(parameter_text(parameter))
        if kinds[number:number + 2].count(inspect.Parameter.POSITIONAL_ONLY) == 1: parts.append("/")
    return [part for number, part in enumerate(parts) if part != "/" or parts[number - 1] != "*"]


def signature_text(name, sig, is_class):
    "The signature on one line, or a parameter a line where one is not enough."
    parts = with_stars(list(sig.parameters.values()))
    gives = type_text(sig.return_annotation) if not is_class else ""
    end = f" -> {gives}" if gives else ""
    text = f"{name}({', '.join(parts)}){end}"
    if len(text) <= WIDTH: return text
    lines = [f"    {part}," for part in parts]
    return "\n".join([f"{name}(", *lines, f"){end}"])


def comments(symbol):
    "What is said about each argument: the comment beside it, or a field's help."
    found = {name: about.get("docment") for name, about in docments(symbol, full=True).items()}
    if is_dataclass(symbol):
        helps = {field.name: field.metadata["setting"].help for field in fields(symbol)
                 if "setting" in field.metadata}
        found = {name: text or helps.get(name) for name, text in found.items()}
    found |= starred_comments(symbol)
    if "__signature__" in vars(symbol): found.pop("return", None)  # said of the function that it wraps
    return {name: " ".join(text.split()) for name, text in found.items() if text}


def starred_comments(symbol):
    "The comments beside `*args` and `**kwargs`, which docments leaves out."
    try: head = inspect.getsource(symbol).partition('"')[0]
    except (OSError, TypeError): return {}
    return dict(re.findall(r"^\s*\*{1,2}(\w+)[^#\n]*,\s*#\s*(.*)$", head, re.M))


def source_text(symbol):
    "The definition as it stands in the module, or nothing if it is long or not to be had."
    try: text = inspect.getsource(symbol).rstrip()
    except (OSError, TypeError): return ""
    return text if text.count("\n") < LONGEST_SOURCE else ""


def plain(text):
    "A comment as Markdown that shows what it says: no star, underscore or bracket turns into markup."
    return re.sub(r"([*_<>\[\]])", r"\\\1", text)


class Reference(BasicMarkdownRenderer):
    "nbdev's `show_doc` for this site."
    def argument_lines(self):
        said, parameters = comments(self.sym), self.sig.parameters if self.sig else {}
        for name, parameter in parameters.items():
            if name not in said: continue
            type_ = type_text(parameter.annotation)
            shown = f" (`{type_}`)" if type_ else ""
            yield f"- `{name}`{shown}: {plain(said[name])}"
        if "return" in said: yield f"- result: {plain(said['return'])}"

    def _repr_markdown_(self):
        link, is_class = NbdevLookup().code(self.fn), inspect.isclass(self.sym)
        parts = ["---", f"{'#'*self.title_level} {self.nm}"]
        if self.sig is not None:
            kind = "class " if is_class else ""
            parts.append(f"```python\n{kind}{signature_text(self.nm, self.sig, is_class)}\n```")
        if self.docs: parts.append(self.docs)
        parts.append("\n".join(self.argument_lines()))
        if source := source_text(self.sym):
            fold = '{.python .cell-code code-fold="true" code-summary="Source"}'
            parts.append(f"```` {fold}\n{source}\n````")
        if link: parts.append(f"[{self.nm} on GitHub]({link})" + "{.source-link}")
        return "\n\n".join(filter(None, parts))
