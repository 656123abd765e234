"""Small files of every format, written here: what a test expects of them stands in the test."""

from __future__ import annotations

import io
import json
import subprocess
import zipfile

from megaphi.curation.extract.pandoc.run import pandoc_path

MARKDOWN = r"""# Head

Words with $x^2$ and

$$\sum_{i=1}^n \begin{pmatrix} a & b\\ c & d\end{pmatrix}$$

```python
def f():
    return 1
```

| a | b   |
|---|-----|
| 1 | $y$ |
"""


def by_pandoc(form: str) -> bytes:
    """`MARKDOWN` as DOCX or ePub."""
    command = [pandoc_path(), "-f", "markdown", "-t", form, "-o", "-", "--mathml", "--metadata", "title=Title"]
    return subprocess.run(command, input=MARKDOWN.encode(), capture_output=True, check=True).stdout


def pdf(pages: list[list[str]]) -> bytes:
    """A PDF of lines of ASCII."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for lines in pages:
        shown = "".join(f"({line}) Tj T* " for line in lines)
        stream = f"BT /F1 10 Tf 12 TL 50 750 Td {shown} ET".encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        kids.append(len(objects) + 1)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(b"%d 0 R" % kid for kid in kids), len(kids))
    file, places = io.BytesIO(), []
    file.write(b"%PDF-1.4\n")
    for number, each in enumerate(objects, 1):
        places.append(file.tell())
        file.write(b"%d 0 obj\n%s\nendobj\n" % (number, each))
    start = file.tell()
    file.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    file.writelines(b"%010d 00000 n \n" % place for place in places)
    file.write(b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start))
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


NAMESPACE = 'xmlns:mml="http://www.w3.org/1998/Math/MathML"'
MATHML = f"<mml:math {NAMESPACE}><mml:msup><mml:mi>x</mml:mi><mml:mn>2</mml:mn></mml:msup></mml:math>"
JATS = f"""<?xml version="1.0"?><!DOCTYPE article PUBLIC "-//NLM//DTD JATS" "JATS.dtd">
<article xml:lang="en"><front><journal-meta><journal-title>Journal</journal-title></journal-meta><article-meta>
<title-group><article-title>On <italic>x</italic></article-title></title-group>
<abstract><p>Short.</p></abstract></article-meta></front><body><sec><title>Intro &ndash; &alpha;</title>
<p>See <xref ref-type="bibr" rid="r1">1</xref>: <inline-formula>{MATHML}</inline-formula> and
<inline-formula><alternatives>
<tex-math>\\documentclass{{minimal}}\\begin{{document}}$\\alpha_1$\\end{{document}}</tex-math>{MATHML}</alternatives>
</inline-formula> so <disp-formula id="e1"><label>(1)</label><tex-math>$$a &lt; b$$</tex-math></disp-formula> done.</p>
<table-wrap><caption><p>Caption.</p></caption><table><tr><th>h</th></tr><tr><td>1</td></tr></table></table-wrap>
<code language="python">x = 1
  y</code></sec></body><back><ref-list><ref id="r1"><mixed-citation>Reference</mixed-citation></ref></ref-list></back>
</article>""".encode()

NOTEBOOK = json.dumps(
    {
        "nbformat": 4,
        "metadata": {"kernelspec": {"language": "julia"}},
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "with $x$ ![p](attachment:p.png)"]},
            {
                "cell_type": "code",
                "source": "f(x) = `x`\n\tg",
                "outputs": [
                    {"output_type": "stream", "text": ["\x1b[31mred\x1b[0m\n"]},
                    {"output_type": "execute_result", "data": {"text/plain": "2", "text/latex": "$y^2$"}},
                    {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo" * 99}},
                    {"output_type": "error", "ename": "KeyError", "evalue": "'k'", "traceback": ["x" * 999]},
                ],
            },
            {"cell_type": "code", "source": "long", "outputs": [{"output_type": "stream", "text": "z" * 5000}]},
        ],
    }
).encode()
