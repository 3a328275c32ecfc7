"""The report in a real browser: no network, nothing wider than the window, sortable by keyboard, enough contrast."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from fedpriv.experiment.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PROBE = """
<script>
window.addEventListener("load", () => {
  const luminance = (text) => {
    const c = text.match(/[\\d.]+/g).slice(0, 3).map((v) => {
      v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
  };
  const backdrop = (e) => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(color) && color !== "transparent") return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = { wide: document.documentElement.scrollWidth, window: innerWidth, contrast: [], pictures: 0 };
  for (const e of document.querySelectorAll("h1, h2, p, td, th, a, figcaption, button, li, caption")) {
    if (!e.textContent.trim() || !e.offsetParent) continue;
    const [a, b] = [luminance(getComputedStyle(e).color), luminance(backdrop(e))].sort((x, y) => y - x);
    found.contrast.push((a + 0.05) / (b + 0.05));
  }
  for (const i of document.images) found.pictures += i.complete && i.naturalWidth > 0 && i.alt.length > 10;
  found.images = document.images.length;
  const table = [...document.querySelectorAll("table")].find((t) => t.querySelector("button") && t.rows.length > 2);
  const button = table.querySelector("th button");
  button.focus();
  found.focused = document.activeElement === button;
  const column = () => [...table.tBodies[0].rows].map((r) => r.cells[0].textContent.trim());
  found.before = column();
  button.click();
  found.once = column();
  button.click();
  found.twice = column();
  found.sort = table.querySelector("th").getAttribute("aria-sort");
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_at_desktop_and_phone_width(small, width):
    experiment, store = small
    page = write_report(experiment, store, ["fedpriv", "run"])
    # The page's own policy forbids foreign scripts, so the probe goes into a copy without it.
    text = re.sub(r"<meta[^>]*Content-Security-Policy[^>]*>", "", page.read_text(), flags=re.I)
    probe = page.parent / "probe.html"
    probe.write_text(text.replace("</body>", PROBE + "</body>"))
    shown = page.parent / "frame.html"
    # Chromium's own window is never narrower than 500 pixels, a frame is.
    shown.write_text(f'<iframe src="probe.html" style="width:{width}px;height:900px;border:0"></iframe>')
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--window-size={max(width, 500)},900", "--virtual-time-budget=5000", "--dump-dom",
    ]  # fmt: skip
    target = probe if width >= 500 else shown
    if target is shown:
        script = """<script>setTimeout(() => { const d = document.querySelector("iframe").contentDocument;
          document.body.append(d.getElementById("found").cloneNode(true)); }, 2000)</script>"""
        shown.write_text(shown.read_text() + script)
    done = subprocess.run([*command, target.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert match, done.stderr[-2000:]
    found = json.loads(match.group(1).replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<"))
    assert found["wide"] <= found["window"] <= width  # tables scroll inside, the page does not
    assert min(found["contrast"]) >= 4.5
    assert found["pictures"] == found["images"] > 3
    assert found["focused"]
    assert found["once"] == sorted(found["before"])
    assert found["twice"] == sorted(found["before"], reverse=True)
    assert found["sort"] in ("ascending", "descending")
