"""One browser for all tests of pages: Debian's chromium, without a window."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A driver that also shows pages (`show`) and lets axe-core look at them (`violations`)."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("Debian's packages chromium and chromium-driver are not installed")

    class Browser(webdriver.Chrome):
        def show(self, page: Path, width: int = 1280, scheme: str = "light") -> None:
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            media = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
            features = [{"name": name, "value": value} for name, value in media.items()]
            self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            self.get(page.as_uri())

        def violations(self) -> list[tuple[str, list[str]]]:
            axe = pytest.importorskip("axe_core_python")
            self.execute_script((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
            code = "const done = arguments[0]; axe.run({resultTypes: ['violations']}).then(done)"
            found = self.execute_async_script(code)
            assert len(found["passes"]) > 8, "axe found something to look at"
            return [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]]

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = Browser(options=options, service=webdriver.ChromeService(driver))
    # Without a window nothing has the focus, and a page would not hear of it.
    opened.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    yield opened
    opened.quit()
