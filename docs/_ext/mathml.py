"""Formulas as MathML, made when the pages are built.

MathJax and KaTeX are programs that a page loads, by default from a server elsewhere.
MathML needs neither: browsers draw it themselves, screen readers read it, and the
pages work from a disk without network. The converter is math-core, a wheel without
dependencies. A formula that it cannot read stops the build.
"""

import math_core
from docutils.nodes import SkipNode

CONVERTER = math_core.LatexToMathML(fancy_error=False)


def visit_inline(translator, node):
    formula = CONVERTER.convert_with_local_state(node.astext(), displaystyle=False)
    translator.body.append(formula)
    raise SkipNode


def visit_block(translator, node):
    formula = CONVERTER.convert_with_local_state(node.astext(), displaystyle=True)
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
