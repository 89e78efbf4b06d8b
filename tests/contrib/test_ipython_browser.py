"""What a model wrote, in a real browser: nothing in it acts, and code shows what was written. Takes 3 s."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from wsclient import GenerationResult
from wsclient.contrib.ipython.views import result_view

from .test_ipython_markdown import HOSTILE

CHROMIUM = shutil.which("chromium")
# What each hostile text tries is to run something, to load something, or to lead somewhere.
PAGE = """<!DOCTYPE html><meta charset="utf-8"><script>
let acted = [];
window.alert = text => acted.push("alert");
window.addEventListener("error", () => acted.push("load"), true);
new PerformanceObserver(list => acted.push(...list.getEntries().map(entry => entry.name))).observe({type: "resource"});
</script><main>BODY</main><script>
window.addEventListener("load", () => setTimeout(() => {
    const all = [...document.querySelectorAll("main *")];
    const report = {
        acted,
        tags: [...new Set(all.map(element => element.localName))],
        handlers: all.flatMap(element => element.getAttributeNames()).filter(name => name.startsWith("on")),
        links: [...document.querySelectorAll("main a")].map(link => link.protocol),
        code: [...document.querySelectorAll("main pre code")].map(code => code.textContent),
    };
    document.body.innerHTML = `<pre id="report"></pre>`;
    document.getElementById("report").textContent = JSON.stringify(report);
}, 100));
</script>"""
WRITTEN = 'if a < b && c > "d":\n    <script>alert(1)</script> &amp;\n'


def look_at(texts: list[str], folder: Path) -> dict[str, list[str]]:
    """Return what a browser makes of results with these texts."""
    views = [result_view(GenerationResult(id="gen_1", model=text, text=text, thinking=text)) for text in texts]
    page = folder / "page.html"
    page.write_text(PAGE.replace("BODY", "\n".join(view.html for view in views)))
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    report = re.search(r'<pre id="report">(.*)</pre>', finished.stdout, re.DOTALL)
    assert report is not None, finished.stdout
    told: dict[str, list[str]] = json.loads(html.unescape(report[1]))
    return told


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_nothing_acts_and_code_is_what_was_written(tmp_path: Path) -> None:
    told = look_at([*HOSTILE, f"```python\n{WRITTEN}```"], tmp_path)

    assert told["acted"] == []
    assert told["handlers"] == []
    assert set(told["links"]) <= {"http:", "https:", "mailto:"}
    assert not {"script", "img", "iframe", "svg", "object", "style", "form"} & set(told["tags"])
    assert told["code"][-1] == WRITTEN


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_the_browser_would_have_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A guard for the test above: unescaped, these do act.
    monkeypatch.setattr("wsclient.contrib.ipython.views.to_html", lambda text: text)

    told = look_at(["<script>alert(1)</script>", "<img src=x onerror=alert(1)>"], tmp_path)

    assert "alert" in told["acted"]
    assert {"script", "img"} <= set(told["tags"])
    assert told["handlers"] == ["onerror"]
